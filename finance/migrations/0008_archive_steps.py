"""What became of closed months, step by step."""

from django.db import migrations, models

import common.clock

# Steps are only ever added.
APPEND_ONLY = """
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON archive_steps
        FOR EACH ROW EXECUTE FUNCTION refuse_change_of_closed_month();
    CREATE TRIGGER never_emptied BEFORE TRUNCATE ON archive_steps
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_closed_month();
    ALTER TABLE archive_steps ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER never_emptied;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("finance", "0007_audited_by_the_database"),
        ("metering", "0011_archived_requests"),
    ]

    operations = [
        migrations.CreateModel(
            name="ArchiveStep",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("month", models.DateField()),
                (
                    "step",
                    models.CharField(
                        choices=[
                            ("written", "written to a file, and read back"),
                            ("detached", "out of the ledger, in a table beside it"),
                            ("dropped", "in the file alone"),
                            ("restored", "in the ledger again"),
                        ],
                        max_length=10,
                    ),
                ),
                ("at", models.DateTimeField(default=common.clock.now)),
                ("by", models.CharField(max_length=255)),
                ("file", models.CharField(max_length=255)),
                ("sha256", models.CharField(max_length=64)),
                ("rows", models.BigIntegerField()),
                ("totals", models.JSONField(help_text="What the rows cost: amount as text, by currency.")),
                ("schema_version", models.PositiveSmallIntegerField()),
                ("manifest", models.JSONField()),
            ],
            options={
                "db_table": "archive_steps",
                "ordering": ("-id",),
                "default_permissions": ("view",),
                "indexes": [models.Index(fields=["month"], name="idx_archive_steps_month")],
            },
        ),
        migrations.RunSQL(APPEND_ONLY, migrations.RunSQL.noop),
    ]
