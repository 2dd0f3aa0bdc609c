"""A ledger of a month: rows, hours, days and quota periods that agree, made by the database itself."""

import contextlib
import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.usage_market import KEYS, SERVICES, TIER, Market

DAYS = 30
#: Rows of one statement, and how many of those run at once.
AT_ONCE, SESSIONS = 500_000, 4

_MARKET = """
    CREATE TABLE bench_market AS
    SELECT number, key, consumer, services, versions FROM unnest(%s::int[], %s::uuid[], %s::uuid[])
        AS keys (number, key, consumer),
    LATERAL (SELECT %s::uuid[] AS services, %s::uuid[] AS versions) AS offered
"""
# A key is used at two services, as ``usage_market`` has it. The part of an id beside its time is its row's number.
_ROWS = """
    INSERT INTO usage_records (
        id, request_id, consumer_id, service_id, api_key_id, price_version_id, tier, "timestamp", duration_ms, usage,
        cost, total_tokens, cost_amount, currency, status, error, kind, settlement
    )
    SELECT id, id, consumer, services[1 + place], key, versions[1 + place], %(tier)s, moment, 100 + n %% 900,
        ('{"prompt_tokens":' || prompt || ',"completion_tokens":' || completion || ',"total_tokens":'
            || prompt + completion || ',"cached_tokens":0,"reasoning_tokens":0,"usage_source":"'
            || CASE WHEN failed THEN 'none' ELSE 'reported' END || '"}')::jsonb,
        ('{"amount":' || (prompt + completion) * 0.0000025 || ',"currency":"USD"}')::jsonb, prompt + completion,
        (prompt + completion) * 0.0000025, 'USD', CASE WHEN failed THEN 'error' ELSE 'success' END,
        CASE WHEN failed THEN '{"code":"upstream_failed"}'::jsonb END, 'usage', 'lease'
    FROM (
        SELECT n, to_timestamp(ms / 1000.0) AS moment,
            (lpad(to_hex(ms), 12, '0') || '7000a000' || lpad(to_hex(n), 12, '0'))::uuid AS id, failed,
            CASE WHEN failed THEN 0 ELSE 20 + chance %% 2000 END AS prompt,
            CASE WHEN failed THEN 0 ELSE 1 + chance %% 500 END AS completion,
            chance %% %(keys)s AS number,
            CASE WHEN chance / %(keys)s %% 5 = 0 THEN (chance %% %(keys)s * 7 + 1) %% %(services)s
                ELSE chance %% %(keys)s %% %(services)s END AS place
        FROM (
            SELECT n, hashint4(n) & 268435455 AS chance, hashint4(n + 1) & 1023 < 1024 * 0.03 AS failed,
                (%(start)s + n * %(step)s)::bigint AS ms
            FROM generate_series(%(first)s, %(last)s) AS n
        ) AS chances
    ) AS calls JOIN bench_market USING (number)
"""
_OWNERS = "consumer_id, service_id, api_key_id, price_version_id, tier, {stretch}, status, kind, currency"
_HOURS = """
    INSERT INTO usage_rollups (
        consumer_id, service_id, api_key_id, price_version_id, tier, hour, status, kind, currency, requests, charged,
        duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens, cost_amount
    )
    SELECT consumer_id, service_id, api_key_id, price_version_id, tier, date_trunc('hour', "timestamp", 'UTC'), status,
        kind, currency, count(*), count(*) FILTER (WHERE usage->>'usage_source' <> 'none'), sum(duration_ms),
        sum((usage->>'prompt_tokens')::bigint), sum((usage->>'completion_tokens')::bigint),
        sum((usage->>'cached_tokens')::bigint), 0, sum(total_tokens), sum(cost_amount)
    FROM usage_records GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""
_DAYS = """
    INSERT INTO usage_daily_rollups (
        consumer_id, service_id, api_key_id, price_version_id, tier, day, status, kind, currency, requests, charged,
        duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens, cost_amount
    )
    SELECT consumer_id, service_id, api_key_id, price_version_id, tier, (hour AT TIME ZONE 'UTC')::date, status, kind,
        currency, sum(requests), sum(charged), sum(duration_ms), sum(prompt_tokens), sum(completion_tokens),
        sum(cached_tokens), 0, sum(total_tokens), sum(cost_amount)
    FROM usage_rollups GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""
_PERIODS = """
    INSERT INTO quota_periods (consumer_id, service_id, month, used)
    SELECT consumer_id, service_id, date_trunc('month', day)::date, sum(total_tokens) FROM usage_daily_rollups
    GROUP BY 1, 2, 3
"""


def fill(market: Market, rows: int) -> None:
    """Empty the ledger and fill it with so many rows, evenly over thirty days that end an hour ago."""
    from django.db import connection

    from common import clock
    from metering import partitions

    end = clock.now_ms() - 3_600_000
    start = end - DAYS * 86_400_000
    first = clock.month_of(clock.now() - dt.timedelta(days=DAYS, hours=1))
    partitions.make([first, clock.next_month(first)])
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS bench_market")
        cursor.execute(
            "TRUNCATE usage_records, usage_rollups, usage_daily_rollups, quota_periods, journal_batches"
        )
        cursor.execute(_MARKET, _market(market))
        cursor.execute("ANALYZE bench_market")
    told = {"tier": TIER, "keys": KEYS, "services": SERVICES, "start": start, "step": (end - start) / rows}
    stretches = [{**told, "first": at, "last": min(at + AT_ONCE, rows) - 1} for at in range(0, rows, AT_ONCE)]
    with ThreadPoolExecutor(SESSIONS) as sessions:
        list(sessions.map(_insert, stretches))
    with connection.cursor() as cursor:
        for statement in (_HOURS, _DAYS, _PERIODS):
            cursor.execute(statement)
        cursor.execute("VACUUM ANALYZE usage_records, usage_rollups, usage_daily_rollups, quota_periods")


def _insert(stretch: dict[str, Any]) -> None:
    from django.db import connection

    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(_ROWS, stretch)


def _market(market: Market) -> list[list[Any]]:
    keys, services = market.keys, market.services
    return [
        list(range(KEYS)),
        [str(key.id) for key in keys],
        [str(key.consumer_id) for key in keys],
        [str(service.id) for service in services],
        [str(service.price_version_id) for service in services],
    ]
