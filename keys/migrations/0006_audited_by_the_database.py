"""Changes of keys are told by the database where nobody else did; that one was used is no change."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0003_changes_past_the_application"),
        ("keys", "0005_limits"),
    ]

    operations = [
        migrations.RunSQL(
            "SELECT audit_table('api_keys', 'api_key', unaudited => '{last_used_at}', secrets => '{key_hash}');",
            "SELECT unaudit_table('api_keys');",
        ),
    ]
