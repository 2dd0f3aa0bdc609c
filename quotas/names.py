"""What Valkey calls the things of a consumer, made once and kept: a call needs a dozen of these names."""

import datetime as dt
import uuid
from dataclasses import dataclass
from functools import lru_cache

from metering import shards

_DAY_MS = 86_400_000
#: Days that are remembered: midnight is crossed by calls of two.
_MOST_DAYS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """What Valkey calls the things of one consumer and service. There is one for a pair, so it is compared by identity.

    ``quota`` wants a month at its end, ``spent`` a month or a day; ``tombstone`` a request's id.
    """

    service_id: uuid.UUID
    shard: int
    tag: str
    epoch: str
    journal: str
    leases: str
    bucket: str
    quota: str
    now: str
    spent: str
    tombstone: str


@lru_cache(maxsize=65_536)
def names_of(consumer_id: uuid.UUID, service_id: uuid.UUID) -> Names:
    """The names of a pair, which never change."""
    shard = shards.shard_of(consumer_id)
    tag = shards.tag(shard)
    return Names(
        service_id=service_id,
        shard=shard,
        tag=tag,
        epoch=shards.epoch_key(shard),
        journal=shards.journal_key(shard),
        leases=shards.leases_key(shard),
        bucket=shards.bucket_key(shard, consumer_id, service_id),
        quota=f"{tag}:quota:{consumer_id}:{service_id}:",
        now=shards.now_key(shard, consumer_id),
        spent=shards.spent_key(shard, consumer_id, ""),
        tombstone=f"{tag}:settled:",
    )


@dataclass(frozen=True, slots=True, eq=False)
class Period:
    """A UTC day and its month, as names end with them, and when their counters go, seconds since the epoch."""

    month: str
    month_expires: int
    day: str
    day_expires: int


class Periods:
    """The period of a moment; worked out once a day, not once a call."""

    def __init__(self) -> None:
        self._days: dict[int, Period] = {}

    def of(self, at_ms: int) -> Period:
        """One object for all moments of a day (milliseconds since the epoch)."""
        number = at_ms // _DAY_MS
        period = self._days.get(number)
        if period is None:
            if len(self._days) > _MOST_DAYS:
                self._days.clear()
            period = self._days[number] = _period(dt.date(1970, 1, 1) + dt.timedelta(days=number))
        return period


def _period(day: dt.date) -> Period:
    return Period(
        f"{day:%Y%m}", shards.quota_expires(day.replace(day=1)), f"{day:%Y%m%d}", shards.day_expires(day)
    )
