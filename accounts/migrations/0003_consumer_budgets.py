"""Budgets of consumers."""

import django.core.validators
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_sign_ins"),
    ]

    operations = [
        migrations.CreateModel(
            name="ConsumerBudget",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "amount",
                    models.DecimalField(
                        decimal_places=9,
                        help_text="0 forbids every call in this currency.",
                        max_digits=16,
                        validators=[
                            django.core.validators.MinValueValidator(0),
                            django.core.validators.MaxValueValidator(9000000),
                        ],
                    ),
                ),
                (
                    "currency",
                    models.CharField(
                        help_text="ISO 4217, for example USD.",
                        max_length=3,
                        validators=[
                            django.core.validators.RegexValidator(
                                "\\A[A-Z]{3}\\Z", "Three capital letters (ISO 4217)"
                            )
                        ],
                    ),
                ),
                ("period", models.CharField(choices=[("day", "Day"), ("month", "Month")], max_length=5)),
                (
                    "soft",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="It is told at 80 and 100 %, and refuses nothing.",
                    ),
                ),
                (
                    "consumer",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="budgets",
                        to="accounts.consumer",
                    ),
                ),
            ],
            options={
                "db_table": "consumer_budgets",
                "ordering": ("consumer", "currency", "period"),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("consumer", "currency", "period"), name="one_budget_a_currency_and_period"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("amount__gte", 0),
                            ("currency__regex", "^[A-Z]{3}$"),
                            ("period__in", ("day", "month")),
                        ),
                        name="valid_consumer_budget",
                    ),
                ],
            },
        ),
        # Gateways keep budgets with the keys of the consumer.
        migrations.RunSQL(
            sql="""
                CREATE TRIGGER notify_change AFTER INSERT OR UPDATE OR DELETE ON consumer_budgets
                FOR EACH ROW EXECUTE FUNCTION notify_change('consumer_id');
            """,
            reverse_sql="DROP TRIGGER notify_change ON consumer_budgets;",
        ),
    ]
