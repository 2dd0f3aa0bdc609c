"""Who decides about limits at each gateway."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("metering", "0009_one_letter_per_entry")]

    operations = [
        migrations.AddField(
            model_name="gateway",
            name="mode",
            field=models.CharField(
                db_default="normal",
                default="normal",
                help_text="Who decided about limits when it spoke last.",
                max_length=10,
            ),
        ),
    ]
