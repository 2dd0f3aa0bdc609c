"""How far gateways, SLA checks and keys have been read; events are found by their subject."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("analytics", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="SourcePosition",
            fields=[
                (
                    "source",
                    models.CharField(
                        choices=[
                            ("gateways", "gateways: what they refused"),
                            ("sla", "violations of objectives"),
                            ("keys", "keys made and revoked"),
                        ],
                        max_length=20,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "position",
                    models.CharField(
                        blank=True, help_text="All up to here became events, or were lost.", max_length=50
                    ),
                ),
                (
                    "recent",
                    models.JSONField(
                        default=list, help_text="Beyond the position: ids that became events already."
                    ),
                ),
                (
                    "passed",
                    models.PositiveBigIntegerField(
                        default=0, help_text="Entries of the stream that lie behind."
                    ),
                ),
                (
                    "lost",
                    models.PositiveBigIntegerField(
                        default=0, help_text="Entries pushed out of the stream unread."
                    ),
                ),
            ],
            options={
                "db_table": "analytics_source_positions",
                "ordering": ("source",),
            },
        ),
        migrations.AddIndex(
            model_name="analyticsevent",
            index=models.Index(fields=["subject", "-time"], name="idx_analytics_subject"),
        ),
    ]
