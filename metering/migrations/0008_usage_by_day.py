"""Sums by day beside those by hour: whole days are what is mostly asked for."""

import django.db.models.deletion
from django.db import migrations, models

# Stop the drains before: one that began under the code before this would write hours alone. Days of closed months are
# closed too, as ``metering.guards`` would have made them.
FILL = """
    INSERT INTO usage_daily_rollups (consumer_id, service_id, day, api_key_id, price_version_id, tier, status, kind,
        currency, requests, charged, duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens,
        cache_write_tokens, audio_prompt_tokens, audio_completion_tokens, total_tokens, cost_amount, upstream_requests,
        upstream_amount)
    SELECT consumer_id, service_id, (hour AT TIME ZONE 'UTC')::date, api_key_id, price_version_id, tier, status, kind,
        currency, sum(requests), sum(charged), sum(duration_ms), sum(prompt_tokens), sum(completion_tokens),
        sum(cached_tokens), sum(reasoning_tokens), sum(cache_write_tokens), sum(audio_prompt_tokens),
        sum(audio_completion_tokens), sum(total_tokens), sum(cost_amount), sum(upstream_requests), sum(upstream_amount)
    FROM usage_rollups GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;

    DO $$
    DECLARE
        closed date;
        which record;
    BEGIN
        SELECT (max(month) + interval '1 month')::date INTO closed FROM closed_months;
        IF closed IS NULL THEN RETURN; END IF;
        FOR which IN SELECT * FROM (VALUES
            ('insert', 'NEW.day < %1$L'), ('update', 'OLD.day < %1$L OR NEW.day < %1$L'), ('delete', 'OLD.day < %1$L')
        ) AS events (event, refused) LOOP
            EXECUTE format(
                'CREATE TRIGGER closed_months_%s BEFORE %s ON usage_daily_rollups FOR EACH ROW WHEN ('
                    || format(which.refused, closed) || ') EXECUTE FUNCTION refuse_change_of_closed_month()',
                which.event, which.event
            );
        END LOOP;
        CREATE TRIGGER closed_months_emptied BEFORE TRUNCATE ON usage_daily_rollups FOR EACH STATEMENT
            EXECUTE FUNCTION refuse_change_of_closed_month();
        ALTER TABLE usage_daily_rollups ENABLE ALWAYS TRIGGER closed_months_insert,
            ENABLE ALWAYS TRIGGER closed_months_update, ENABLE ALWAYS TRIGGER closed_months_delete,
            ENABLE ALWAYS TRIGGER closed_months_emptied;
    END $$;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0007_audited_by_the_database"),
        ("catalog", "0012_audited_by_the_database"),
        ("keys", "0006_audited_by_the_database"),
        ("metering", "0007_distrusted_shards"),
    ]

    operations = [
        migrations.CreateModel(
            name="DailyUsageRollup",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[("usage", "Usage"), ("correction", "Correction")],
                        db_default="usage",
                        default="usage",
                        max_length=20,
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("success", "Success"),
                            ("error", "Error"),
                            ("cancelled", "Cancelled"),
                            ("unsettled", "Unsettled"),
                        ],
                        max_length=50,
                    ),
                ),
                ("currency", models.CharField(max_length=3)),
                ("requests", models.BigIntegerField(default=0)),
                (
                    "charged",
                    models.BigIntegerField(
                        db_default=0, default=0, help_text="Requests that brought something."
                    ),
                ),
                ("duration_ms", models.BigIntegerField(default=0)),
                ("prompt_tokens", models.BigIntegerField(default=0)),
                ("completion_tokens", models.BigIntegerField(default=0)),
                ("cached_tokens", models.BigIntegerField(default=0)),
                ("reasoning_tokens", models.BigIntegerField(default=0)),
                ("cache_write_tokens", models.BigIntegerField(db_default=0, default=0)),
                ("audio_prompt_tokens", models.BigIntegerField(db_default=0, default=0)),
                ("audio_completion_tokens", models.BigIntegerField(db_default=0, default=0)),
                ("total_tokens", models.BigIntegerField(default=0)),
                ("cost_amount", models.DecimalField(decimal_places=18, default=0, max_digits=38)),
                (
                    "upstream_requests",
                    models.BigIntegerField(
                        db_default=0, default=0, help_text="Requests whose cost at the upstream is known."
                    ),
                ),
                (
                    "upstream_amount",
                    models.DecimalField(
                        db_default=0,
                        decimal_places=18,
                        default=0,
                        help_text="What those cost there.",
                        max_digits=38,
                    ),
                ),
                ("day", models.DateField()),
                (
                    "api_key",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="keys.apikey",
                    ),
                ),
                (
                    "consumer",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="accounts.consumer",
                    ),
                ),
                (
                    "price_version",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="catalog.priceversion",
                    ),
                ),
                (
                    "service",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="catalog.service",
                    ),
                ),
                (
                    "tier",
                    models.ForeignKey(
                        db_column="tier",
                        db_constraint=False,
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="catalog.tier",
                    ),
                ),
            ],
            options={
                "db_table": "usage_daily_rollups",
                "ordering": ("-day",),
                "indexes": [models.Index(fields=["service", "day"], name="idx_rollups_service_day")],
                "constraints": [
                    models.UniqueConstraint(
                        fields=(
                            "consumer",
                            "service",
                            "day",
                            "api_key",
                            "price_version",
                            "tier",
                            "status",
                            "kind",
                            "currency",
                        ),
                        name="one_rollup_per_day",
                    )
                ],
            },
        ),
        migrations.RunSQL(sql=FILL, reverse_sql=migrations.RunSQL.noop),
    ]
