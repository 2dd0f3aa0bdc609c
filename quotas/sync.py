"""Live counters against the ledger, compared at a position of the journal.

A counter is read together with the last id of its journal, before and after the ledger; the ledger is read once the
drain has passed the first of these ids. Counters only rise, so the ledger must lie between the two readings; what
lies outside of them, in two looks, is a drift. It is healed by the difference, never by setting a value.
"""

import datetime as dt
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from django.db import connection

from common import clock
from metering import shards, valkey
from metering.models import JournalPosition, QuotaPeriod
from metering.stream import order
from quotas.models import QuotaDrift

log = logging.getLogger(__name__)

#: How long a look waits for the drain, and the pause between two looks, seconds.
PATIENCE = 10.0
BETWEEN_LOOKS = 1.0
#: Counters read in one call of the script.
CHUNK = 500
_LOCK = 0x73796E63

_SCRIPTS = Path(__file__).parent / "scripts"
_READ = (_SCRIPTS / "read_counters.lua").read_text()
_HEAL = (_SCRIPTS / "heal_counter.lua").read_text()


@dataclass(frozen=True, slots=True, order=True)
class Counter:
    """One monthly counter: whose, and where."""

    shard: int
    consumer_id: uuid.UUID
    service_id: uuid.UUID
    month: dt.date

    @property
    def key(self) -> str:
        return shards.quota_key(self.shard, self.consumer_id, self.service_id, self.month)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a counter said, under which epoch, and how long its journal was."""

    epoch: str
    last_id: str
    used: int


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a counter is from the ledger at least: ``by`` has to be added to it."""

    counter: Counter
    epoch: str
    used: int
    ledger: int
    by: int


def sync_quotas() -> list[QuotaDrift]:
    """Compare every counter of this month with the ledger twice, and heal what differs both times.

    One at a time: two that heal the same difference would heal it twice.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, 0)", [_LOCK])
    try:
        return _sync_quotas()
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, 0)", [_LOCK])


def _sync_quotas() -> list[QuotaDrift]:
    client = valkey.connect()
    try:
        first = _look(client, _counters())
        if not first:
            return []
        time.sleep(BETWEEN_LOOKS)
        second = _look(client, [drift.counter for drift in first])
        by_counter = {drift.counter: drift for drift in second}
        pairs = [(drift, by_counter[drift.counter]) for drift in first if drift.counter in by_counter]
        return [_heal(client, _smaller(*pair)) for pair in pairs if _agree(*pair)]
    finally:
        client.close()


def _counters() -> list[Counter]:
    month = clock.month_of(clock.now())
    rows = QuotaPeriod.objects.filter(month=month).values_list("consumer_id", "service_id")
    return sorted(Counter(shards.shard_of(consumer), consumer, service, month) for consumer, service in rows)


def _look(client: redis.Redis, counters: Sequence[Counter]) -> list[Drift]:
    """The counters that cannot be right. Those of shards that the drain does not reach in time are left out."""
    before = _read(client, counters)
    passed = _wait_for_drain(before)
    reached = [counter for counter in counters if counter.shard in passed and before[counter].epoch]
    ledger = _ledger(reached)
    after = _read(client, reached)
    drifts = (_drift(counter, before[counter], ledger[counter], after[counter]) for counter in reached)
    return [drift for drift in drifts if drift is not None]


def _drift(counter: Counter, before: Reading, ledger: int, after: Reading) -> Drift | None:
    if before.epoch != after.epoch or before.used <= ledger <= after.used:
        return None
    used = after.used if ledger > after.used else before.used
    return Drift(counter, after.epoch, used, ledger, ledger - used)


def _agree(first: Drift, second: Drift) -> bool:
    return first.epoch == second.epoch and (first.by > 0) == (second.by > 0)


def _smaller(first: Drift, second: Drift) -> Drift:
    """The one that both looks prove."""
    return min(second, first, key=lambda drift: abs(drift.by))


def _read(client: redis.Redis, counters: Sequence[Counter]) -> dict[Counter, Reading]:
    readings: dict[Counter, Reading] = {}
    for chunk in _chunks(counters):
        shard = chunk[0].shard
        keys = [shards.epoch_key(shard), shards.journal_key(shard), *(counter.key for counter in chunk)]
        answer: Any = client.eval(_READ, len(keys), *keys)
        epoch, last_id = answer[0].decode(), answer[1].decode()
        readings |= {
            counter: Reading(epoch, last_id, used) for counter, used in zip(chunk, answer[2:], strict=True)
        }
    return readings


def _chunks(counters: Sequence[Counter]) -> Iterable[list[Counter]]:
    """Counters of one shard, ``CHUNK`` at most."""
    chunk: list[Counter] = []
    for counter in sorted(counters):
        if chunk and (chunk[0].shard != counter.shard or len(chunk) == CHUNK):
            yield chunk
            chunk = []
        chunk.append(counter)
    if chunk:
        yield chunk


def _wait_for_drain(readings: dict[Counter, Reading]) -> set[int]:
    """The shards whose drain passed what their journals held; waits for it up to ``PATIENCE``."""
    targets = {counter.shard: order(reading.last_id) for counter, reading in readings.items()}
    numbers = {counter.shard: reading.epoch.partition(":")[0] for counter, reading in readings.items()}
    passed: set[int] = set()
    deadline = time.monotonic() + PATIENCE
    while len(passed) < len(targets):
        waiting = [shard for shard in targets if shard not in passed]
        for position in JournalPosition.objects.filter(shard__in=waiting):
            is_same_epoch = str(position.epoch) == numbers[position.shard]
            if is_same_epoch and order(position.last_id) >= targets[position.shard]:
                passed.add(position.shard)
        if time.monotonic() > deadline:
            log.warning("the drain is behind in %d shards, not compared", len(targets) - len(passed))
            break
        if len(passed) < len(targets):
            time.sleep(0.05)
    return passed


def _ledger(counters: Sequence[Counter]) -> dict[Counter, int]:
    months = {counter.month for counter in counters}
    consumers = {counter.consumer_id for counter in counters}
    periods = QuotaPeriod.objects.filter(month__in=months, consumer_id__in=consumers)
    used = {
        (period.consumer_id, period.service_id, period.month): period.used for period in periods.iterator()
    }
    return {
        counter: used.get((counter.consumer_id, counter.service_id, counter.month), 0) for counter in counters
    }


def _heal(client: redis.Redis, drift: Drift) -> QuotaDrift:
    """The row first: a counter is never moved without one."""
    counter = drift.counter
    row = QuotaDrift.objects.create(
        consumer_id=counter.consumer_id,
        service_id=counter.service_id,
        month=counter.month,
        counter=drift.used,
        ledger=drift.ledger,
        reason="two looks at one journal position disagree with the ledger",
    )
    log.error("counter of shard %d differed from the ledger by %+d", counter.shard, drift.by)
    keys = (shards.epoch_key(counter.shard), counter.key)
    expires = str(shards.quota_expires(counter.month))
    row.healed = bool(client.eval(_HEAL, len(keys), *keys, drift.epoch, str(drift.by), expires))
    row.save(update_fields=("healed",))
    return row
