"""The published schema's defaults, for plain SQL."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("sla", "0002_violations_by_time")]

    operations = [
        migrations.RunSQL(
            sql="""
                ALTER TABLE sla_violations ALTER COLUMN id SET DEFAULT gen_random_uuid(),
                    ALTER COLUMN "timestamp" SET DEFAULT now();
            """,
            reverse_sql="""
                ALTER TABLE sla_violations ALTER COLUMN id DROP DEFAULT,
                    ALTER COLUMN "timestamp" DROP DEFAULT;
            """,
        ),
    ]
