"""Changes of policies are told by the database where nobody else did."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0003_changes_past_the_application"),
        ("policy", "0003_violations_by_time_and_request"),
    ]

    operations = [
        migrations.RunSQL("SELECT audit_table('policies', 'policy');", "SELECT unaudit_table('policies');"),
    ]
