"""Counters as Valkey has them: which there are, what they say at a place of the journal, and how one is moved."""

import datetime as dt
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from common import clock
from metering import shards

#: Keys looked through at a time, and hashes read in one call of the script.
NAMES, CHUNK = 1_000, 500
_ID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_KEY = re.compile(
    rf"\{{s(\d\d)\}}:(?:quota:({_ID}):({_ID}):(\d{{6}})|spent:({_ID}):(\d{{6}}|\d{{8}})|now:({_ID}))",
    re.ASCII,
)
_IS_COUNTED = re.compile(rf"used|t:{_ID}|m:[A-Z]{{3}}(?::{_ID})?".encode()).fullmatch
_RESERVES = re.compile(rf"reserved|rt:{_ID}|rm:[A-Z]{{3}}(?::{_ID})?|c:{_ID}".encode()).fullmatch
_IS_NUMBER = re.compile(rb"-?\d{1,18}").fullmatch

_SCRIPTS = Path(__file__).parent / "scripts"
_READ = (_SCRIPTS / "read_counters.lua").read_text()
_HEAL = (_SCRIPTS / "heal_counter.lua").read_text()

#: Hashes by their keys: what is counted in each, without what is reserved.
Hashes = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True, order=True)
class Counter:
    """A field of a ``quota_key``, a ``spent_key`` or a ``now_key``."""

    key: str
    field: str

    @property
    def shard(self) -> int:
        return shard_of(self.key)

    @property
    def period(self) -> str:
        return period_of(self.key)

    @property
    def is_of_day(self) -> bool:
        return len(self.period) == len("20251125")

    @property
    def is_reserved(self) -> bool:
        """Whether it counts what running calls may still use."""
        return bool(_RESERVES(self.field.encode()))

    @property
    def is_of_calls(self) -> bool:
        return self.field.startswith("c:")

    @property
    def consumer_id(self) -> uuid.UUID:
        return uuid.UUID(consumer_of(self.key))

    @property
    def service_id(self) -> uuid.UUID | None:
        """Of a quota."""
        of_quota = _parts(self.key)[2]
        return uuid.UUID(of_quota) if of_quota else None

    @property
    def currency(self) -> str:
        """Empty where tokens are counted, and else what nano-units are counted of."""
        return self.field.split(":")[1] if self.field.startswith(("m:", "rm:")) else ""

    @property
    def of(self) -> str:
        """The key's lineage or the service that is counted apart, in a hash of a consumer."""
        return self.field.partition(":")[2].removeprefix(self.currency).removeprefix(":")


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a counter is from what is ``right`` at least: ``by`` has to be added to it."""

    counter: Counter
    epoch: str
    value: int
    right: int

    @property
    def by(self) -> int:
        return self.right - self.value


@dataclass(frozen=True, slots=True)
class Reading:
    """Hashes of one shard, its epoch, and how long its journal was when the last of them was read. ``reserving``: which
    of them reserve anything."""

    epoch: str
    last_id: str
    hashes: Hashes
    reserving: frozenset[str] = frozenset()


def keys(client: redis.Redis) -> set[str]:
    """Of all such hashes."""
    names = client.scan_iter(match="{s*}:*:20*", count=NAMES)
    return {key for name in names if _KEY.fullmatch(key := name.decode(errors="replace"))}


def by_shard(of: Iterable[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for key in of:
        found[shard_of(key)].append(key)
    return found


def period_of(key: str) -> str:
    """The UTC month (``202511``) or day (``20251125``) that a hash is of; empty where it is of now."""
    parts = _parts(key)
    return parts[3] or parts[5]


def begin_of(period: str) -> dt.date:
    """Its first day."""
    return dt.date(int(period[:4]), int(period[4:6]), int(period[6:] or 1))


def consumer_of(key: str) -> str:
    parts = _parts(key)
    return parts[1] or parts[4] or parts[6]


def shard_of(key: str) -> int:
    return int(_parts(key)[0])


def _parts(key: str) -> Sequence[str]:
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(key)
    return match.groups(default="")


def read(client: redis.Redis, shard: int, wanted: Iterable[str]) -> Reading:
    """What these hashes of a shard say. Without an epoch where it changed meanwhile, or where there is none."""
    names, found, epochs, last_id = sorted(wanted), Hashes(), set[bytes](), b"0-0"
    reserving = set[str]()
    for some in in_chunks(names):
        answer: Any = client.eval(
            _READ, len(some) + 2, shards.epoch_key(shard), shards.journal_key(shard), *some
        )
        epochs.add(answer[0])
        last_id = answer[1]
        for name, flat in zip(some, answer[2:], strict=True):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            found[name] = {
                field.decode(): to_number(value) for field, value in fields.items() if _IS_COUNTED(field)
            }
            if any(value != b"0" for field, value in fields.items() if _RESERVES(field)):
                reserving.add(name)
    epoch = epochs.pop().decode() if len(epochs) == 1 else ""
    return Reading(epoch, last_id.decode(), found, frozenset(reserving))


def in_chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Once where there are none: an epoch is asked for all the same."""
    for start in range(0, len(names) or 1, CHUNK):
        yield names[start : start + CHUNK]


def reserved(key: bytes, field: bytes) -> Counter | None:
    """The counter of what running calls may still use; None where it is none of ours."""
    is_ours = _KEY.fullmatch(key.decode(errors="replace")) and _RESERVES(field)
    return Counter(key.decode(), field.decode()) if is_ours else None


def to_number(value: bytes) -> int:
    """What is no number is moved from nothing (``heal_counter.lua``)."""
    return int(value) if _IS_NUMBER(value) else 0


def move(client: redis.Redis, counter: Counter, by: int, *, epoch: str) -> bool:
    """Add ``by`` to a counter; False where its shard has another epoch by now."""
    keys = (shards.epoch_key(counter.shard), counter.key)
    return bool(client.eval(_HEAL, len(keys), *keys, epoch, counter.field, str(by), str(_expires(counter))))


def _expires(counter: Counter) -> int:
    if not counter.period:
        return int((clock.now() + shards.NOW_KEPT).timestamp())
    begin = begin_of(counter.period)
    return shards.day_expires(begin) if counter.is_of_day else shards.quota_expires(begin)
