"""Violations over all services in the order of time: the list in the admin, and analytics."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("sla", "0001_initial")]
    operations = [
        migrations.AddIndex(
            model_name="slaviolation",
            index=models.Index(fields=["-timestamp"], name="idx_sla_violations_timestamp"),
        ),
    ]
