"""The published schema lets plain SQL insert a service without an id or a time."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("catalog", "0004_streams_have_a_deadline_of_their_own")]

    operations = [
        migrations.RunSQL(
            sql="""
                ALTER TABLE services ALTER COLUMN id SET DEFAULT gen_random_uuid(),
                    ALTER COLUMN created_at SET DEFAULT now();
            """,
            reverse_sql="""
                ALTER TABLE services ALTER COLUMN id DROP DEFAULT, ALTER COLUMN created_at DROP DEFAULT;
            """,
        ),
    ]
