"""What consumers spent in a month or a day, as the ledger has it: for live counters that have to be set again."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection

#: Consumer, period (``202511`` or ``20251125``), and field, amount, field, amount …, as a ``spent_key`` has them.
Spent = tuple[str, str, list[str]]

# Fields are named as ``shards.tokens_field`` and ``shards.money_field`` name them. Money in nano-units, rounded up.
_SPENT = """
    WITH used AS MATERIALIZED (
        SELECT r.consumer_id, r.service_id, k.lineage, r.currency,
            to_char(r.day, %(period)s) AS period, sum(r.total_tokens) AS tokens,
            sum(r.cost_amount) AS cost
        FROM usage_daily_rollups AS r JOIN api_keys AS k ON k.id = r.api_key_id
        WHERE r.kind = 'usage' AND r.consumer_id = ANY(%(consumers)s::uuid[]) AND r.day >= %(since)s
        GROUP BY 1, 2, 3, 4, 5
    ), amounts AS (
        SELECT consumer_id, period, 't:' || lineage AS field, sum(tokens) AS amount FROM used
        WHERE %(with_tokens)s GROUP BY 1, 2, 3
        UNION ALL
        SELECT consumer_id, period,
            'm:' || currency || coalesce(':' || lineage, ':' || service_id, ''), ceil(sum(cost) * 1000000000)
        FROM used GROUP BY GROUPING SETS (
            (consumer_id, period, currency), (consumer_id, period, currency, lineage),
            (consumer_id, period, currency, service_id)
        )
    )
    SELECT consumer_id::text, period, string_agg(field || ' ' || amount, ' ') FROM amounts WHERE amount <> 0
    GROUP BY 1, 2
"""


def by_month(consumers: Sequence[str], *, since: dt.date) -> Iterator[Spent]:
    """Tokens of keys, and money of consumers, keys and services, since the first of a month."""
    return _spent(consumers, "YYYYMM", since, with_tokens=True)


def by_day(consumers: Sequence[str], *, since: dt.date) -> Iterator[Spent]:
    """Money of consumers, keys and services since a day."""
    return _spent(consumers, "YYYYMMDD", since, with_tokens=False)


def _spent(consumers: Sequence[str], period: str, since: dt.date, *, with_tokens: bool) -> Iterator[Spent]:
    wanted: dict[str, Any] = {
        "period": period,
        "consumers": list(consumers),
        "since": since,
        "with_tokens": with_tokens,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SPENT, wanted)
        for consumer, of, fields in cursor:
            yield consumer, of, fields.split(" ")
