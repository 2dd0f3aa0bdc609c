"""The published schema's defaults, for plain SQL."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("metering", "0002_what_the_drain_needs")]

    operations = [
        migrations.RunSQL(
            sql="""
                ALTER TABLE usage_records ALTER COLUMN id SET DEFAULT gen_random_uuid();
            """,
            reverse_sql="""
                ALTER TABLE usage_records ALTER COLUMN id DROP DEFAULT;
            """,
        ),
    ]
