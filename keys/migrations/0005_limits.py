"""Concurrent requests, tokens a minute and soft budgets of keys."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("keys", "0004_notices"),
    ]

    operations = [
        migrations.AddField(
            model_name="apikey",
            name="budget_soft",
            field=models.BooleanField(
                db_default=False, default=False, help_text="It is told at 80 and 100 %, and refuses nothing."
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="concurrent_requests",
            field=models.PositiveIntegerField(
                blank=True, help_text="Calls that may run at once. 0 forbids, empty: unlimited.", null=True
            ),
        ),
        migrations.AddField(
            model_name="apikey",
            name="tokens_per_minute",
            field=models.PositiveBigIntegerField(
                blank=True,
                help_text="A bucket of so many, refilled in a minute. One call takes at most all of it. 0 forbids, empty: unlimited.",
                null=True,
            ),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="budget_currency",
            field=models.CharField(blank=True, db_default="", default="", max_length=3),
        ),
        migrations.AlterField(
            model_name="apikey",
            name="budget_period",
            field=models.CharField(
                blank=True,
                choices=[("day", "Day"), ("month", "Month")],
                db_default="",
                default="",
                max_length=5,
            ),
        ),
    ]
