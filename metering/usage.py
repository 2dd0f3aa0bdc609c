"""What a consumer used of a service, asked of the rollups."""

import datetime as dt
import uuid
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import Q, QuerySet, Sum

from common import clock
from common.money import ZERO
from metering.models import DailyUsageRollup, UsageRecord

MOST_DAYS = 366
#: Corrections change what was used and what it cost, not how many calls there were, nor how those went.
_CALLS = Q(kind=UsageRecord.Kind.USAGE)
_SETTLED = _CALLS & ~Q(status=UsageRecord.Status.UNSETTLED)


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
    rollups = DailyUsageRollup.objects.filter(
        consumer_id=consumer_id, service_id=service_id, day__gte=start.date(), day__lt=end.date()
    )
    return _statistics(rollups, start, end)


def _statistics(rollups: QuerySet[DailyUsageRollup], start: dt.datetime, end: dt.datetime) -> UsageStatistics:
    currency = rollups.order_by("-day", "-id").values_list("currency", flat=True).first()
    sums = rollups.aggregate(
        calls=Sum("requests", default=0, filter=_CALLS),
        tokens=Sum("total_tokens", default=0),
        cost=Sum("cost_amount", default=ZERO, filter=Q(currency=currency)),
        settled=Sum("requests", default=0, filter=_SETTLED),
        duration=Sum("duration_ms", default=0, filter=_SETTLED),
        errors=Sum("requests", default=0, filter=_CALLS & Q(status=UsageRecord.Status.ERROR)),
    )
    settled = int(sums["settled"])
    return UsageStatistics(
        period_start=start,
        period_end=end,
        total_requests=int(sums["calls"]),
        total_tokens=int(sums["tokens"]),
        total_cost=sums["cost"],
        currency=currency,
        avg_latency_ms=float(sums["duration"] / settled) if settled else 0.0,
        error_rate=float(sums["errors"] / settled) if settled else 0.0,
    )
