"""What consumers spent in a month or a day, as the ledger has it: for live counters that have to be set again."""

import datetime as dt
import json
import uuid
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.db.models import Sum
from django.db.models.functions import TruncDay, TruncMonth

from common import clock, money
from metering import shards
from metering.models import UsageRecord, UsageRollup

#: Field → tokens, or money that is not rounded yet.
_Used = dict[str, int | Decimal]


def spent(opening: Iterable[int]) -> dict[int, list[tuple[str, str, str]]]:
    """Key, used by field (as JSON) and expiry of every ``spent_key`` that may still be asked for, by shard."""
    found: dict[int, list[tuple[str, str, str]]] = {shard: [] for shard in opening}
    today = clock.now().date()
    this_month = today.replace(day=1)
    last_month = (this_month - dt.timedelta(days=1)).replace(day=1)
    months = _used(TruncMonth("hour", tzinfo=clock.UTC), since=last_month)
    days = _used(TruncDay("hour", tzinfo=clock.UTC), since=today - dt.timedelta(days=1))
    for (consumer_id, month), used in months.items():
        _put(found, consumer_id, f"{month:%Y%m}", shards.quota_expires(month), used)
    for (consumer_id, day), used in days.items():
        amounts = {field: amount for field, amount in used.items() if isinstance(amount, Decimal)}
        _put(found, consumer_id, f"{day:%Y%m%d}", shards.day_expires(day), amounts)
    return found


def _put(
    found: dict[int, list[tuple[str, str, str]]],
    consumer_id: uuid.UUID,
    period: str,
    expires: int,
    used: dict[str, Any],
) -> None:
    shard = shards.shard_of(consumer_id)
    amounts = {field: _counted(amount) for field, amount in used.items() if amount}
    if shard in found and amounts:
        key = shards.spent_key(shard, consumer_id, period)
        found[shard].append((key, json.dumps(amounts), str(expires)))


def _counted(amount: int | Decimal) -> str:
    # As text: Lua's JSON would make a float of a number.
    return str(money.nano(amount) if isinstance(amount, Decimal) else amount)


def _used(period: TruncMonth | TruncDay, *, since: dt.date) -> dict[tuple[uuid.UUID, dt.date], _Used]:
    """By consumer and the first day of the period."""
    sums = (
        UsageRollup.objects.filter(kind=UsageRecord.Kind.USAGE, hour__gte=clock.day_start(since))
        .annotate(period=period)
        .values("consumer_id", "service_id", "api_key__lineage", "currency", "period")
        .annotate(tokens=Sum("total_tokens"), cost=Sum("cost_amount"))
    )
    found: dict[tuple[uuid.UUID, dt.date], _Used] = defaultdict(dict)
    for row in sums.iterator():
        used = found[row["consumer_id"], row["period"].date()]
        fields = shards.spent_fields(row["api_key__lineage"], row["service_id"], row["currency"])
        for field, amount in zip(fields, (row["tokens"], *[row["cost"]] * 3), strict=True):
            used[field] = used.get(field, 0) + amount
    return found
