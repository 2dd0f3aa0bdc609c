"""Kinds of token that prices tell apart, calls that are charged, and what calls cost at their upstream."""

from django.db import migrations, models

# Of calls that ended well all are charged; of the others the ledger knows. Closed months get the new count too: their
# guards look away for as long as this transaction holds the table.
COUNT_CHARGED = """
    DO $$
    DECLARE guard name;
    BEGIN
        FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'usage_rollups'::regclass AND tgname LIKE 'closed_month%'
        LOOP
            EXECUTE format('ALTER TABLE usage_rollups DISABLE TRIGGER %I', guard);
        END LOOP;
        UPDATE usage_rollups SET charged = requests WHERE status = 'success';
        UPDATE usage_rollups r SET charged = l.charged FROM (
            SELECT consumer_id, service_id, date_trunc('hour', "timestamp", 'UTC') AS hour, api_key_id,
                price_version_id, tier, status, kind, currency, count(*) AS charged
            FROM usage_records
            WHERE status IN ('error', 'cancelled') AND usage->>'usage_source' <> 'none'
            GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        ) l
        WHERE (r.consumer_id, r.service_id, r.hour, r.api_key_id, r.price_version_id, r.tier, r.status, r.kind, r.currency)
            = (l.consumer_id, l.service_id, l.hour, l.api_key_id, l.price_version_id, l.tier, l.status, l.kind, l.currency);
        FOR guard IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'usage_rollups'::regclass AND tgname LIKE 'closed_month%'
        LOOP
            EXECUTE format('ALTER TABLE usage_rollups ENABLE ALWAYS TRIGGER %I', guard);
        END LOOP;
    END $$;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("metering", "0005_gateways"),
    ]

    operations = [
        migrations.AddField(
            model_name="usagerollup",
            name="audio_completion_tokens",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="usagerollup",
            name="audio_prompt_tokens",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="usagerollup",
            name="cache_write_tokens",
            field=models.BigIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="usagerollup",
            name="charged",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="Requests that brought something."
            ),
        ),
        migrations.AddField(
            model_name="usagerollup",
            name="upstream_amount",
            field=models.DecimalField(
                db_default=0, decimal_places=18, default=0, help_text="What those cost there.", max_digits=38
            ),
        ),
        migrations.AddField(
            model_name="usagerollup",
            name="upstream_requests",
            field=models.BigIntegerField(
                db_default=0, default=0, help_text="Requests whose cost at the upstream is known."
            ),
        ),
        migrations.AlterField(
            model_name="usagerecord",
            name="settlement",
            field=models.CharField(
                choices=[
                    ("lease", "settled in time"),
                    ("late", "settled after its lease was gone"),
                    ("replay", "handed in after an outage"),
                    ("reaped", "lease ran out, nobody settled"),
                    ("manual", "entered by a person"),
                    ("repriced", "priced again"),
                ],
                default="lease",
                max_length=20,
            ),
        ),
        migrations.RunSQL(sql=COUNT_CHARGED, reverse_sql=migrations.RunSQL.noop),
    ]
