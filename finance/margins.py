"""Revenue beside what the same calls cost at their upstreams, asked of the rollups.

Revenue is what calls cost their callers, and what corrected them; what a month alone decides (fees, steps) is of no
call: ``finance.charges``.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from django.db.models import F, Sum
from django.db.models.functions import TruncMonth

from common.money import ZERO
from finance.charges import sum_of
from metering.models import DailyUsageRollup

By = Literal["service", "consumer", "api_key", "price_version", "day", "month"]
_KEYS: dict[By, Any] = {
    "service": F("service_id"),
    "consumer": F("consumer_id"),
    "api_key": F("api_key_id"),
    "price_version": F("price_version_id"),
    "day": F("day"),
    "month": TruncMonth("day"),
}


@dataclass(frozen=True, slots=True)
class Margin:
    """``key``: an id or a day, as asked for, in its order. ``known``: charged requests whose cost at the upstream is
    known; of the others ``upstream`` has nothing, so the margin is whole only where all are known."""

    key: tuple[Any, ...]
    currency: str
    requests: int
    charged: int
    known: int
    revenue: Decimal
    upstream: Decimal

    @property
    def margin(self) -> Decimal:
        return sum_of((self.revenue, self.upstream.copy_negate()))

    @property
    def is_whole(self) -> bool:
        return self.known >= self.charged


def margins(*, first: dt.date, last: dt.date, by: Sequence[By]) -> list[Margin]:
    """Of UTC days, both included, by what is asked for and by currency."""
    keys = {f"by_{name}": _KEYS[name] for name in by}
    found = (
        DailyUsageRollup.objects.filter(day__gte=first, day__lte=last)
        .values(**keys, in_currency=F("currency"))
        .annotate(
            calls=Sum("requests"),
            charges=Sum("charged"),
            known=Sum("upstream_requests"),
            revenue=Sum("cost_amount", default=ZERO),
            upstream=Sum("upstream_amount", default=ZERO),
        )
        .order_by(*keys, "in_currency")
    )
    return [
        Margin(
            key=tuple(row[name] for name in keys),
            currency=row["in_currency"],
            requests=int(row["calls"]),
            charged=int(row["charges"]),
            known=int(row["known"]),
            revenue=row["revenue"],
            upstream=row["upstream"],
        )
        for row in found
    ]
