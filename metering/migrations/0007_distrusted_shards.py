"""Shards whose counters a person wants set from nothing."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("metering", "0006_what_prices_need")]

    operations = [
        migrations.AlterField(
            model_name="shardepoch",
            name="state",
            field=models.CharField(
                choices=[
                    ("live", "Live"),
                    ("rebuilding", "Rebuilding"),
                    ("distrusted", "distrusted: counters to be set from nothing"),
                ],
                default="rebuilding",
                max_length=20,
            ),
        ),
        # Older code opens anew whatever is not live.
        migrations.RunSQL(
            sql=migrations.RunSQL.noop,
            reverse_sql="UPDATE shard_epochs SET state = 'rebuilding' WHERE state = 'distrusted'",
        ),
    ]
