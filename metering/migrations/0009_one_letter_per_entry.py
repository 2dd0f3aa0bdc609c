"""An entry that is read again in another epoch gets no second dead letter."""

from django.db import migrations, models
from django.db.models.functions import MD5


class Migration(migrations.Migration):
    dependencies = [("metering", "0008_usage_by_day")]

    operations = [
        migrations.RemoveConstraint("deadletter", "one_dead_letter_per_entry"),
        # Letters of the same entry, but for the first one: it says the same, and whoever resolved it decided for all.
        migrations.RunSQL(
            """
            DELETE FROM dead_letters AS d USING dead_letters AS first
            WHERE d.shard = first.shard AND d.stream_id = first.stream_id AND d.entry = first.entry AND d.id > first.id
            """,
            migrations.RunSQL.noop,
        ),
        migrations.AddConstraint(
            "deadletter",
            models.UniqueConstraint("shard", "stream_id", MD5("entry"), name="one_dead_letter_per_entry"),
        ),
    ]
