"""The register of gateways."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("metering", "0004_closing_months")]

    operations = [
        migrations.CreateModel(
            name="Gateway",
            fields=[
                (
                    "id",
                    models.CharField(
                        help_text="The slot's name.", max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("host", models.CharField(max_length=255)),
                ("started_at", models.DateTimeField()),
                ("seen_at", models.DateTimeField()),
                ("open_calls", models.PositiveIntegerField(default=0)),
                ("spooled", models.PositiveIntegerField(default=0)),
                ("oldest_open", models.DateTimeField(blank=True, null=True)),
                (
                    "ended_at",
                    models.DateTimeField(
                        blank=True, help_text="When it stopped in peace, or was taken over.", null=True
                    ),
                ),
                ("dismissed_at", models.DateTimeField(blank=True, null=True)),
                ("dismissed_by", models.CharField(blank=True, max_length=255)),
                ("note", models.TextField(blank=True, help_text="Why nothing more is expected of it.")),
            ],
            options={
                "db_table": "gateways",
                "ordering": ("-seen_at",),
                "default_permissions": ("view",),
            },
        ),
    ]
