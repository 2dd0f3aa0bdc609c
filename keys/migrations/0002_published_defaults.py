"""The published schema's defaults, for plain SQL."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("keys", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql="""
                ALTER TABLE api_keys ALTER COLUMN id SET DEFAULT gen_random_uuid(),
                    ALTER COLUMN created_at SET DEFAULT now(),
                    ALTER COLUMN metadata SET DEFAULT '{}';
            """,
            reverse_sql="""
                ALTER TABLE api_keys ALTER COLUMN id DROP DEFAULT,
                    ALTER COLUMN created_at DROP DEFAULT,
                    ALTER COLUMN metadata DROP DEFAULT;
            """,
        ),
    ]
