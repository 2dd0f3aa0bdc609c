"""What a closed month is known by, and that it stays; and corrections in the rollups, apart from calls."""

from django.db import migrations, models

# Reversed, the months that were closed are open again.
FORWARDS = """
    CREATE FUNCTION refuse_change_of_closed_month() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'the month is closed' USING ERRCODE = 'MC001', TABLE = TG_TABLE_NAME;
    END $$;
    CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON closed_months
        FOR EACH ROW EXECUTE FUNCTION refuse_change_of_closed_month();
    CREATE TRIGGER never_emptied BEFORE TRUNCATE ON closed_months
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_closed_month();
    ALTER TABLE closed_months ENABLE ALWAYS TRIGGER append_only, ENABLE ALWAYS TRIGGER never_emptied;

    INSERT INTO usage_rollups (
        consumer_id, service_id, hour, api_key_id, price_version_id, tier, status, kind, currency, requests, duration_ms,
        prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens, cost_amount
    )
    SELECT consumer_id, service_id, date_trunc('hour', "timestamp", 'UTC'), api_key_id, price_version_id, tier, status,
        kind, currency, count(*), sum(duration_ms), sum((usage->>'prompt_tokens')::bigint),
        sum((usage->>'completion_tokens')::bigint), sum((usage->>'cached_tokens')::bigint),
        sum((usage->>'reasoning_tokens')::bigint), sum(total_tokens), sum(cost_amount)
    FROM usage_records WHERE kind = 'correction' GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;
"""
BACKWARDS = """
    DROP FUNCTION refuse_change_of_closed_month() CASCADE;
    DELETE FROM usage_rollups WHERE kind = 'correction';
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0005_external_identities"),
        ("catalog", "0009_limits"),
        ("keys", "0005_limits"),
        ("metering", "0003_published_defaults"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="usagerollup",
            name="one_rollup_per_hour",
        ),
        migrations.AddField(
            model_name="closedmonth",
            name="closed_by",
            field=models.CharField(default="", max_length=255),
        ),
        migrations.AddField(
            model_name="closedmonth",
            name="corrections",
            field=models.BigIntegerField(default=0),
        ),
        migrations.AddField(
            model_name="closedmonth",
            name="records",
            field=models.BigIntegerField(default=0, help_text="Rows of the ledger, corrections among them."),
        ),
        migrations.AddField(
            model_name="closedmonth",
            name="tokens",
            field=models.DecimalField(decimal_places=0, default=0, max_digits=38),
        ),
        migrations.AddField(
            model_name="closedmonth",
            name="totals",
            field=models.JSONField(
                default=dict, help_text="What the rows cost: amount as text, by currency."
            ),
        ),
        migrations.AddField(
            model_name="usagerollup",
            name="kind",
            field=models.CharField(
                choices=[("usage", "Usage"), ("correction", "Correction")],
                db_default="usage",
                default="usage",
                max_length=20,
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
                ],
                default="lease",
                max_length=20,
            ),
        ),
        migrations.AddConstraint(
            model_name="usagerollup",
            constraint=models.UniqueConstraint(
                fields=(
                    "consumer",
                    "service",
                    "hour",
                    "api_key",
                    "price_version",
                    "tier",
                    "status",
                    "kind",
                    "currency",
                ),
                name="one_rollup_per_hour",
            ),
        ),
        migrations.RunSQL(sql=FORWARDS, reverse_sql=BACKWARDS),
    ]
