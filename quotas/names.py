"""What Valkey calls the things of a consumer, made once and kept: a call needs a dozen of these names."""

import datetime as dt
import uuid
from dataclasses import dataclass
from functools import lru_cache

from common import clock
from metering import shards


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """What Valkey calls the things of one consumer and service. There is one for a pair, so it is compared by identity.

    ``quota`` wants a month at its end; ``lease`` and ``tombstone`` a request's id.
    """

    shard: int
    tag: str
    epoch: str
    journal: str
    leases: str
    bucket: str
    quota: str
    lease: str
    tombstone: str


@lru_cache(maxsize=65_536)
def names_of(consumer_id: uuid.UUID, service_id: uuid.UUID) -> Names:
    """The names of a pair, which never change."""
    shard = shards.shard_of(consumer_id)
    tag = shards.tag(shard)
    return Names(
        shard=shard,
        tag=tag,
        epoch=shards.epoch_key(shard),
        journal=shards.journal_key(shard),
        leases=shards.leases_key(shard),
        bucket=shards.bucket_key(shard, consumer_id, service_id),
        quota=f"{tag}:quota:{consumer_id}:{service_id}:",
        lease=f"{tag}:lease:",
        tombstone=f"{tag}:settled:",
    )


class Month:
    """The month of a moment and when its counters expire; worked out once a month, not once a call."""

    def __init__(self) -> None:
        self._from_ms = self._until_ms = 0
        self._suffix = ""
        self._expires = 0

    def of(self, at_ms: int) -> tuple[str, int]:
        """``202511`` and seconds since the epoch."""
        if not self._from_ms <= at_ms < self._until_ms:
            self._enter(at_ms)
        return self._suffix, self._expires

    def _enter(self, at_ms: int) -> None:
        month = clock.month_of(dt.datetime.fromtimestamp(at_ms / 1000, clock.UTC))
        self._from_ms = int(clock.month_start(month).timestamp() * 1000)
        self._until_ms = int(clock.month_start(clock.next_month(month)).timestamp() * 1000)
        self._suffix = f"{month:%Y%m}"
        self._expires = shards.quota_expires(month)
