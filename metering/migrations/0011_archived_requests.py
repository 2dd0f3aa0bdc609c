"""What is remembered of requests whose rows are archived."""

from django.db import migrations, models

# Rows are only ever added: what came late for a month is judged by them.
APPEND_ONLY = """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON archived_requests
        FOR EACH ROW EXECUTE FUNCTION refuse_change_of_closed_month();
    CREATE TRIGGER never_emptied BEFORE TRUNCATE ON archived_requests
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_closed_month();
    ALTER TABLE archived_requests ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER never_emptied;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0010_mode_of_gateways"),
    ]

    operations = [
        migrations.CreateModel(
            name="ArchivedRequests",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("month", models.DateField()),
                ("first", models.UUIDField()),
                ("packed", models.BinaryField()),
            ],
            options={
                "db_table": "archived_requests",
                "constraints": [
                    models.UniqueConstraint(fields=("month", "first"), name="one_row_per_first_request")
                ],
            },
        ),
        migrations.RunSQL(APPEND_ONLY, migrations.RunSQL.noop),
    ]
