"""How much of a month's quota is used: from the live counter, or the ledger where Valkey does not answer."""

import datetime as dt
import uuid
from dataclasses import dataclass
from functools import cache

import redis

from common import clock
from metering import shards, valkey
from metering.models import QuotaPeriod

#: Seconds for connecting and for the answer, each: the ledger answers just as well.
TIMEOUT = 0.25


@dataclass(frozen=True, slots=True)
class Quota:
    """Tokens of one UTC month. ``limit``: ``0`` forbids, ``None`` is unlimited."""

    used: int
    limit: int | None
    reset_at: dt.datetime

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def exceeded(self) -> bool:
        return self.remaining == 0


def quota_now(*, consumer_id: uuid.UUID, service_id: uuid.UUID, limit: int | None) -> Quota:
    """The quota of the current month."""
    month = clock.month_of(clock.now())
    used = _counted(consumer_id, service_id, month)
    if used is None:
        used = _in_ledger(consumer_id, service_id, month)
    return Quota(used=used, limit=limit, reset_at=clock.month_start(clock.next_month(month)))


def _counted(consumer_id: uuid.UUID, service_id: uuid.UUID, month: dt.date) -> int | None:
    """The live counter, or None where there is none: nothing was used yet, or Valkey is away or was emptied."""
    key = shards.quota_key(shards.shard_of(consumer_id), consumer_id, service_id, month)
    try:
        used = _valkey().hget(key, "used")
    except redis.RedisError:
        return None
    return None if used is None else int(used)


def _in_ledger(consumer_id: uuid.UUID, service_id: uuid.UUID, month: dt.date) -> int:
    period = QuotaPeriod.objects.filter(consumer_id=consumer_id, service_id=service_id, month=month)
    return period.values_list("used", flat=True).first() or 0


@cache
def _valkey() -> redis.Redis:
    """One pool a process, shared by its threads."""
    return valkey.connect(timeout=TIMEOUT)
