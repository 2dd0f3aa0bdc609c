"""Violations in the order of time, and by the request id that a caller quotes."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("policy", "0002_default_policies")]
    operations = [
        migrations.AddIndex(
            model_name="policyviolation",
            index=models.Index(fields=["-timestamp"], name="idx_policy_violations_time"),
        ),
        migrations.AddIndex(
            model_name="policyviolation",
            index=models.Index(fields=["request_id"], name="idx_policy_violations_request"),
        ),
    ]
