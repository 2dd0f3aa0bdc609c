"""How much of a month's quota and of every other limit is used: from live counters, the quota else from the ledger."""

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import redis

from catalog.limits import Limits
from common import clock
from metering import valkey
from metering.models import QuotaPeriod
from quotas.limits import CONCURRENT, MONEY_A_DAY, REQUESTS, TOKENS_A_MINUTE, Limit
from quotas.names import names_of

#: Seconds for connecting and for the answer, each: the ledger answers just as well.
TIMEOUT = 0.25


@dataclass(frozen=True, slots=True)
class Counted:
    """A limit, what counts against it, and when that starts anew; None where nobody knows."""

    limit: Limit
    used: int | None
    reserved: int | None
    reset_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Quota:
    """Tokens of one UTC month. ``limit``: ``0`` forbids, ``None`` is unlimited. ``others``: all limits but this one."""

    used: int
    limit: int | None
    reserved: int | None
    reset_at: dt.datetime
    others: list[Counted]

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used)

    @property
    def exceeded(self) -> bool:
        return self.remaining == 0


def quota_now(
    *, consumer_id: uuid.UUID, service_id: uuid.UUID, tier: Limits, further: Sequence[Limit]
) -> Quota:
    """The quota of the current month, and what is used of the tier's rate and of further limits."""
    now = clock.now()
    month = clock.month_of(now)
    names = names_of(consumer_id, service_id)
    places: list[tuple[str, Sequence[str]]] = [(f"{names.quota}{month:%Y%m}", ("used", "reserved"))]
    limits: list[Limit] = []
    if tier.requests_per_second is not None:
        limits.append(Limit(REQUESTS, "service", "t", tier.requests_per_second))
        places.append((names.bucket, ("t", "at")))
    for limit in further:
        limits.append(limit)
        places.append((_hash_of(limit, names.now, names.spent, now), limit.fields))
    found = _read(places)
    used, reserved = (None, None) if found is None else found[1][0]
    others = [Counted(limit, None, None, None) for limit in limits]
    if found is not None:
        others = [
            _counted(limit, values, found[0]) for limit, values in zip(limits, found[1][1:], strict=True)
        ]
    return Quota(
        # No counter: nothing was used yet, or Valkey is away or was emptied.
        used=_in_ledger(consumer_id, service_id, month) if used is None else int(used),
        limit=tier.tokens_per_month,
        reserved=None if found is None else int(reserved or 0),
        reset_at=clock.month_start(clock.next_month(month)),
        others=others,
    )


def _hash_of(limit: Limit, now_key: str, spent: str, now: dt.datetime) -> str:
    if limit.kind in (CONCURRENT, REQUESTS, TOKENS_A_MINUTE):
        return now_key
    return f"{spent}{now:%Y%m%d}" if limit.kind == MONEY_A_DAY else f"{spent}{now:%Y%m}"


def _counted(limit: Limit, values: Sequence[bytes | None], now_ms: int) -> Counted:
    if limit.kind == CONCURRENT:
        return Counted(limit, int(values[0] or 0), 0, None)
    if limit.kind in (REQUESTS, TOKENS_A_MINUTE):
        return _bucket(limit, values, now_ms)
    used, reserved = (int(value or 0) for value in values)
    now = clock.now()
    if limit.kind == MONEY_A_DAY:
        end = clock.day_start(now.date() + dt.timedelta(days=1))
    else:
        end = clock.month_start(clock.next_month(clock.month_of(now)))
    return Counted(limit, used, reserved, end)


def _bucket(limit: Limit, values: Sequence[bytes | None], now_ms: int) -> Counted:
    """What is missing in a bucket counts as used; it is full again by ``reset_at``."""
    if limit.value == 0:
        return Counted(limit, 0, 0, None)
    level, since = (None if value is None else float(value) for value in values)
    per_ms = limit.value / (1_000 if limit.kind == REQUESTS else 60_000)
    if level is None or since is None:
        level, since = limit.value, now_ms
    level = min(limit.value, level + max(0.0, now_ms - since) * per_ms)
    missing = limit.value - level
    full = dt.datetime.fromtimestamp((now_ms + missing / per_ms) / 1000, clock.UTC)
    return Counted(limit, round(missing), 0, full.replace(microsecond=0) + dt.timedelta(seconds=missing > 0))


def _read(places: Sequence[tuple[str, Sequence[str]]]) -> tuple[int, list[list[bytes | None]]] | None:
    """Valkey's time in milliseconds, and the fields of each hash; None where it does not answer."""
    try:
        # One consumer's hashes lie on one server, on a cluster too.
        pipeline = valkey.owner(_valkey(), places[0][0]).pipeline(transaction=False)
        pipeline.time()
        for name, fields in places:
            pipeline.hmget(name, list(fields))
        answers: list[Any] = pipeline.execute()
    except redis.RedisError:
        return None
    seconds, micros = answers[0]
    return seconds * 1000 + micros // 1000, answers[1:]


def _in_ledger(consumer_id: uuid.UUID, service_id: uuid.UUID, month: dt.date) -> int:
    period = QuotaPeriod.objects.filter(consumer_id=consumer_id, service_id=service_id, month=month)
    return period.values_list("used", flat=True).first() or 0


@cache
def _valkey() -> redis.Redis:
    """One pool a process, shared by its threads."""
    return valkey.connect(timeout=TIMEOUT)
