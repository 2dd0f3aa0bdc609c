"""Changes of who is sent what are told by the database where nobody else did."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("audit", "0003_changes_past_the_application"),
        ("finance", "0006_monthly_reports"),
    ]

    operations = [
        migrations.RunSQL(
            "SELECT audit_table('report_schedules', 'report_schedule', secrets => '{credential}')",
            "SELECT unaudit_table('report_schedules')",
        )
    ]
