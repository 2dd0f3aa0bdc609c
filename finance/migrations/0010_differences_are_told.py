from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("finance", "0009_troubles_are_told"),
    ]

    operations = [
        migrations.AddField(
            model_name="difference",
            name="told_at",
            field=models.DateTimeField(
                help_text="When finance was written to of it, or of the same in the reconciliation before.",
                null=True,
            ),
        ),
        # Nobody is written to again of what was found before.
        migrations.RunSQL(
            "UPDATE reconciliation_differences SET told_at = now()", reverse_sql=migrations.RunSQL.noop
        ),
    ]
