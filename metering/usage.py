"""What a consumer used of a service, asked of the rollups."""

import datetime as dt
import uuid
from dataclasses import dataclass
from decimal import Decimal

from django.db import connection

from common import clock

MOST_DAYS = 366
#: One question, not composed anew for each answer. Corrections change what was used and what it cost, not how many
#: calls there were, nor how those went.
_SUMS = """
    WITH days AS (
        SELECT * FROM usage_daily_rollups WHERE consumer_id = %s AND service_id = %s AND day >= %s AND day < %s
    ), latest AS (SELECT currency FROM days ORDER BY day DESC, id DESC LIMIT 1)
    SELECT
        (SELECT currency FROM latest),
        coalesce(sum(requests) FILTER (WHERE kind = 'usage'), 0),
        coalesce(sum(total_tokens), 0),
        coalesce(sum(cost_amount) FILTER (WHERE currency = (SELECT currency FROM latest)), 0),
        coalesce(sum(requests) FILTER (WHERE kind = 'usage' AND status <> 'unsettled'), 0),
        coalesce(sum(duration_ms) FILTER (WHERE kind = 'usage' AND status <> 'unsettled'), 0),
        coalesce(sum(requests) FILTER (WHERE kind = 'usage' AND status = 'error'), 0)
    FROM days
"""


@dataclass(frozen=True, slots=True)
class UsageStatistics:
    """Sums over ``[period_start, period_end)``, whole UTC days.

    ``total_cost`` is exact, in ``currency`` (of the latest day's calls; None where there were none).
    ``avg_latency_ms`` and ``error_rate`` leave out what is ``unsettled``; both are 0 where nothing is left.
    """

    period_start: dt.datetime
    period_end: dt.datetime
    total_requests: int
    total_tokens: int
    total_cost: Decimal
    currency: str | None
    avg_latency_ms: float
    error_rate: float


def usage_statistics(*, consumer_id: uuid.UUID, service_id: uuid.UUID, days: int) -> UsageStatistics:
    """Usage of the last ``days`` whole UTC days (1 to 366), today included. Raises ``ValueError`` beyond that."""
    if not 1 <= days <= MOST_DAYS:
        raise ValueError(f"days must lie between 1 and {MOST_DAYS}")
    end = clock.now().replace(hour=0, minute=0, second=0, microsecond=0) + dt.timedelta(days=1)
    start = end - dt.timedelta(days=days)
    return _statistics(consumer_id, service_id, start, end)


def _statistics(
    consumer_id: uuid.UUID, service_id: uuid.UUID, start: dt.datetime, end: dt.datetime
) -> UsageStatistics:
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [consumer_id, service_id, start.date(), end.date()])
        currency, calls, tokens, cost, settled, duration, errors = cursor.fetchone()
    return UsageStatistics(
        period_start=start,
        period_end=end,
        total_requests=int(calls),
        total_tokens=int(tokens),
        total_cost=cost,
        currency=currency,
        avg_latency_ms=float(duration / settled) if settled else 0.0,
        error_rate=float(errors / settled) if settled else 0.0,
    )
