"""Concurrent requests, tokens a minute and budgets of tiers, and what entitlements set instead."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_consumer_budgets"),
        ("catalog", "0008_tokenizers"),
    ]

    operations = [
        migrations.AddField(
            model_name="entitlement",
            name="budget_amount",
            field=models.DecimalField(
                blank=True,
                decimal_places=9,
                help_text="Money it may cost in one period. 0 forbids, empty: unlimited.",
                max_digits=16,
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9000000),
                ],
            ),
        ),
        migrations.AddField(
            model_name="entitlement",
            name="budget_currency",
            field=models.CharField(blank=True, db_default="", default="", max_length=3),
        ),
        migrations.AddField(
            model_name="entitlement",
            name="budget_period",
            field=models.CharField(
                blank=True,
                choices=[("day", "Day"), ("month", "Month")],
                db_default="",
                default="",
                max_length=5,
            ),
        ),
        migrations.AddField(
            model_name="entitlement",
            name="budget_soft",
            field=models.BooleanField(
                db_default=False, default=False, help_text="It is told at 80 and 100 %, and refuses nothing."
            ),
        ),
        migrations.AddField(
            model_name="entitlement",
            name="concurrent_requests",
            field=models.PositiveIntegerField(
                blank=True, help_text="Calls that may run at once. 0 forbids, empty: unlimited.", null=True
            ),
        ),
        migrations.AddField(
            model_name="entitlement",
            name="requests_per_second",
            field=models.PositiveIntegerField(
                blank=True, help_text="0 forbids, empty: as the tier says.", null=True
            ),
        ),
        migrations.AddField(
            model_name="entitlement",
            name="tokens_per_minute",
            field=models.PositiveBigIntegerField(
                blank=True,
                help_text="A bucket of so many, refilled in a minute. One call takes at most all of it. 0 forbids, empty: unlimited.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="entitlement",
            name="tokens_per_month",
            field=models.PositiveBigIntegerField(
                blank=True, help_text="0 forbids, empty: as the tier says.", null=True
            ),
        ),
        migrations.AddField(
            model_name="tier",
            name="budget_amount",
            field=models.DecimalField(
                blank=True,
                decimal_places=9,
                help_text="Money it may cost in one period. 0 forbids, empty: unlimited.",
                max_digits=16,
                null=True,
                validators=[
                    django.core.validators.MinValueValidator(0),
                    django.core.validators.MaxValueValidator(9000000),
                ],
            ),
        ),
        migrations.AddField(
            model_name="tier",
            name="budget_currency",
            field=models.CharField(blank=True, db_default="", default="", max_length=3),
        ),
        migrations.AddField(
            model_name="tier",
            name="budget_period",
            field=models.CharField(
                blank=True,
                choices=[("day", "Day"), ("month", "Month")],
                db_default="",
                default="",
                max_length=5,
            ),
        ),
        migrations.AddField(
            model_name="tier",
            name="budget_soft",
            field=models.BooleanField(
                db_default=False, default=False, help_text="It is told at 80 and 100 %, and refuses nothing."
            ),
        ),
        migrations.AddField(
            model_name="tier",
            name="concurrent_requests",
            field=models.PositiveIntegerField(
                blank=True, help_text="Calls that may run at once. 0 forbids, empty: unlimited.", null=True
            ),
        ),
        migrations.AddField(
            model_name="tier",
            name="tokens_per_minute",
            field=models.PositiveBigIntegerField(
                blank=True,
                help_text="A bucket of so many, refilled in a minute. One call takes at most all of it. 0 forbids, empty: unlimited.",
                null=True,
            ),
        ),
        migrations.AddConstraint(
            model_name="entitlement",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("budget_amount", None), ("budget_currency", ""), ("budget_period", "")),
                    models.Q(
                        ("budget_amount__gte", 0),
                        ("budget_currency__regex", "^[A-Z]{3}$"),
                        ("budget_period__in", ("day", "month")),
                    ),
                    _connector="OR",
                ),
                name="whole_entitlement_budget",
            ),
        ),
        migrations.AddConstraint(
            model_name="tier",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    models.Q(("budget_amount", None), ("budget_currency", ""), ("budget_period", "")),
                    models.Q(
                        ("budget_amount__gte", 0),
                        ("budget_currency__regex", "^[A-Z]{3}$"),
                        ("budget_period__in", ("day", "month")),
                    ),
                    _connector="OR",
                ),
                name="whole_tier_budget",
            ),
        ),
    ]
