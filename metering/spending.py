"""What consumers spent in a month or a day, as the ledger has it: for live counters that have to be set again."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection

#: Consumer, period (``202511`` or ``20251125``), and field, amount, field, amount …, as a ``spent_key`` has them.
Spent = tuple[str, str, list[str]]

_ROLLUPS = "usage_daily_rollups"
_ROWS = """(
    SELECT consumer_id, service_id, api_key_id, currency, kind, ("timestamp" AT TIME ZONE 'UTC')::date AS day,
        total_tokens, cost_amount, 1 AS requests
    FROM usage_records WHERE "timestamp" >= %(since)s::timestamp AT TIME ZONE 'UTC'
)"""
# Fields are named as ``shards.tokens_field`` and ``shards.money_field`` name them. Money in nano-units, rounded up.
_SPENT = """
    WITH used AS MATERIALIZED (
        SELECT r.consumer_id, r.service_id, k.lineage, r.currency,
            to_char(r.day, %(period)s) AS period, sum(r.total_tokens) AS tokens,
            sum(r.cost_amount) AS cost, sum(r.requests) AS calls
        FROM {book} AS r JOIN api_keys AS k ON k.id = r.api_key_id
        WHERE r.kind = 'usage' AND r.consumer_id = ANY(%(consumers)s::uuid[]) AND r.day >= %(since)s
        GROUP BY 1, 2, 3, 4, 5
    ), amounts AS (
        SELECT consumer_id, period, 't:' || lineage AS field, sum(tokens) AS amount, 0 AS calls FROM used
        WHERE %(with_tokens)s GROUP BY 1, 2, 3
        UNION ALL
        SELECT consumer_id, period,
            'm:' || currency || coalesce(':' || lineage, ':' || service_id, ''),
            ceil(sum(cost) * 1000000000), sum(calls)
        FROM used GROUP BY GROUPING SETS (
            (consumer_id, period, currency), (consumer_id, period, currency, lineage),
            (consumer_id, period, currency, service_id)
        )
    )
    SELECT consumer_id::text, period,
        string_agg(field || ' ' || amount || CASE WHEN %(with_calls)s THEN ' ' || calls ELSE '' END, ' ')
    FROM amounts WHERE amount <> 0 GROUP BY 1, 2
"""


def by_month(
    consumers: Sequence[str], *, since: dt.date, with_calls: bool = False, of_rows: bool = False
) -> Iterator[Spent]:
    """Tokens of keys, and money of consumers, keys and services, since the first of a month.

    ``with_calls``: behind each amount, how often it may have been rounded up by as much as a nano-unit. ``of_rows``:
    the rows' sums, and not the rollups'.
    """
    return _spent(consumers, "YYYYMM", since, True, with_calls, of_rows)


def by_day(
    consumers: Sequence[str], *, since: dt.date, with_calls: bool = False, of_rows: bool = False
) -> Iterator[Spent]:
    """Money of consumers, keys and services since a day; else as ``by_month``."""
    return _spent(consumers, "YYYYMMDD", since, False, with_calls, of_rows)


def _spent(
    consumers: Sequence[str], period: str, since: dt.date, with_tokens: bool, with_calls: bool, of_rows: bool
) -> Iterator[Spent]:
    wanted: dict[str, Any] = {
        "period": period,
        "consumers": list(consumers),
        "since": since,
        "with_tokens": with_tokens,
        "with_calls": with_calls,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SPENT.format(book=_ROWS if of_rows else _ROLLUPS), wanted)
        for consumer, of, fields in cursor:
            yield consumer, of, fields.split(" ")
