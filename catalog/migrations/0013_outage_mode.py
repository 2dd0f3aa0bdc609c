"""What becomes of a service's calls while limits cannot be counted."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("catalog", "0012_audited_by_the_database"),
    ]

    operations = [
        migrations.AddField(
            model_name="service",
            name="outage_mode",
            field=models.CharField(
                choices=[
                    ("closed", "Refuse calls (503)"),
                    ("local", "Serve them out of each gateway's share"),
                ],
                db_default="closed",
                default="closed",
                help_text="What becomes of calls while Valkey, which counts the limits, is away. For local mode every gateway holds a share of each consumer's quota in advance.",
                max_length=10,
            ),
        ),
        migrations.AddConstraint(
            model_name="service",
            constraint=models.CheckConstraint(
                condition=models.Q(("outage_mode__in", ("closed", "local"))), name="valid_outage_mode"
            ),
        ),
    ]
