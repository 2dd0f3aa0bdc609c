"""Live counters against the ledger, compared at a position of the journal.

Counters are read together with the last id of their journal, before and after the ledger; the ledger is read once the
drain has passed the first of these ids. Counters only rise, so the ledger must lie between the two readings; what
lies outside of them, in two looks, is a drift: first as quota periods and rollups have it, then as the rows add up, so
that no book which is wrong by itself makes a counter wrong. It is healed by the difference, never by setting a value.

Compared is what may be refused for: the month's quotas, and what consumers, keys and services spent this month and
today, whether ledger and Valkey both know of it or one alone; and what is reserved (``quotas.reservations``).
"""

import datetime as dt
import logging
import time
import uuid
from collections.abc import Collection, Iterator

import redis
from django.db import connection

from catalog.models import Service
from common import clock
from metering import counters, shards, valkey
from metering.counters import Bounds
from metering.models import JournalPosition
from metering.stream import order
from quotas import live_counters, reservations
from quotas.live_counters import Counter, Drift, Reading, consumer_of, period_of
from quotas.models import QuotaDrift

log = logging.getLogger(__name__)

#: How long a look waits for the drain, and the pause between two looks, seconds.
PATIENCE = 10.0
BETWEEN_LOOKS = 1.0
_LOCK = 0x73796E63

WRONG_USED = "two looks at one journal position disagree with the ledger"
WRONG_RESERVED = "open leases hold something else"


def sync_quotas() -> list[QuotaDrift]:
    """Compare every counter with the ledger twice, and heal what differs both times.

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
        readings = _read(client, live_counters.keys(client))
        used, reserved = _compare(client, readings), reservations.differences(client, readings)
        if not used and not reserved:
            return []
        time.sleep(BETWEEN_LOOKS)
        suspects = {drift.counter.key for drift in used}
        by_counter = {
            drift.counter: drift for drift in _compare(client, _read(client, suspects), only=suspects)
        }
        pairs = [(drift, by_counter[drift.counter]) for drift in used if drift.counter in by_counter]
        return [
            *(_heal(client, _smaller(*pair), WRONG_USED) for pair in pairs if _agree(*pair)),
            *(_heal(client, drift, WRONG_RESERVED) for drift in reservations.again(client, reserved)),
        ]
    finally:
        client.close()


def _read(client: redis.Redis, names: set[str]) -> dict[int, Reading]:
    """Hashes of the periods that are compared, by shard."""
    periods = _periods(clock.now())
    keys = live_counters.by_shard(key for key in names if period_of(key) in periods)
    return {shard: live_counters.read(client, shard, keys.get(shard, ())) for shard in range(shards.SHARDS)}


def _compare(
    client: redis.Redis, before: dict[int, Reading], *, only: Collection[str] | None = None
) -> list[Drift]:
    """The counters that cannot be right, among these or all, but for shards that the drain does not reach in time."""
    if only is not None:
        before = {shard: reading for shard, reading in before.items() if reading.hashes}
    now = clock.now()
    periods = _periods(now)
    found: list[Drift] = []
    passed = _wait_for_drain(before)
    used = {} if only is not None else counters.consumers_of(passed, now)
    for shard in sorted(passed):
        # Somebody whose usage is in Valkey alone is asked for too.
        known = {*used.get(shard, ()), *map(consumer_of, before[shard].hashes)}
        if not known:
            continue
        bounds = counters.bounds({shard: list(known)}, now, of_rows=only is not None)
        wanted = only if only is not None else {key for key in bounds if period_of(key) in periods}
        after = live_counters.read(client, shard, {*(bounds.keys() & wanted), *before[shard].hashes})
        found += _drifts(before[shard], bounds, after)
    return found


def _periods(now: dt.datetime) -> set[str]:
    """What is compared, as keys name it."""
    return {f"{counters.months(now)[0]:%Y%m}", f"{counters.days(now)[0]:%Y%m%d}"}


def _wait_for_drain(readings: dict[int, Reading]) -> set[int]:
    """The shards whose drain passed what their journals held; waits for it up to ``PATIENCE``."""
    waiting, passed = {shard for shard in readings if readings[shard].epoch}, set[int]()
    deadline = time.monotonic() + PATIENCE
    while True:
        for position in JournalPosition.objects.filter(shard__in=waiting):
            reading = readings[position.shard]
            is_same_epoch = str(position.epoch) == reading.epoch.partition(":")[0]
            if is_same_epoch and order(position.last_id) >= order(reading.last_id):
                passed.add(position.shard)
        waiting -= passed
        if not waiting:
            return passed
        if time.monotonic() > deadline:
            log.warning("the drain is behind in %d shards, not compared", len(waiting))
            return passed
        time.sleep(0.05)


def _drifts(before: Reading, ledger: dict[str, Bounds], after: Reading) -> Iterator[Drift]:
    if before.epoch != after.epoch:
        return
    for key in after.hashes:
        first, bounds, last = before.hashes.get(key, {}), ledger.get(key, {}), after.hashes[key]
        for field in {*first, *bounds, *last}:
            least, most = bounds.get(field, (0, 0))
            if first.get(field, 0) > most:
                yield Drift(Counter(key, field), after.epoch, first[field], most)
            elif last.get(field, 0) < least:
                yield Drift(Counter(key, field), after.epoch, last.get(field, 0), least)


def _agree(first: Drift, second: Drift) -> bool:
    return first.epoch == second.epoch and (first.by > 0) == (second.by > 0)


def _smaller(first: Drift, second: Drift) -> Drift:
    """The one that both looks prove."""
    return min(second, first, key=lambda drift: abs(drift.by))


def _heal(client: redis.Redis, drift: Drift, reason: str) -> QuotaDrift:
    """The row first: a counter is never moved without one."""
    row = _row(drift, reason)
    row.save()
    log.error("a counter of shard %d was wrong by %+d: %s", drift.counter.shard, drift.by, row.counted)
    row.healed = live_counters.move(client, drift.counter, drift.by, epoch=drift.epoch)
    row.save(update_fields=("healed",))
    return row


def _row(drift: Drift, reason: str) -> QuotaDrift:
    counter = drift.counter
    counted, service_id = "money" if counter.currency else "tokens", counter.service_id
    if counter.is_of_calls:
        counted = QuotaDrift.RUNNING_CALLS
    elif counter.is_reserved:
        counted = f"reserved {counted}"
    if counter.of and Service.objects.filter(id=counter.of).exists():
        service_id = uuid.UUID(counter.of)
        counted += " of the service"
    elif counter.of:
        counted += f" of key {counter.of}"
    return QuotaDrift(
        consumer_id=counter.consumer_id,
        service_id=service_id,
        month=live_counters.begin_of(counter.period) if counter.period else clock.now().date(),
        counted=f"{counted} of a day" if counter.is_of_day else counted,
        currency=counter.currency,
        counter=drift.value,
        ledger=drift.right,
        reason=reason,
    )
