"""The two commands of every paid call, as bytes on the wire (RESP).

Most of what they carry is the same for every call of one consumer and service, so it is written once and kept; packing
all arguments anew was a tenth of a call's cost.
"""

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from metering import lua, shards
from quotas.leases import LEASE_MS
from quotas.limits import LimitSet
from quotas.names import Names, Period

#: A tombstone outlives the 60 s in which a settle of unknown fate is repeated.
TOMBSTONE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest Valkey knows it by."""

    text: str
    sha: str


_SCRIPTS = Path(__file__).parent / "scripts"
_GIVE_BACK = _SCRIPTS / "give_back.lua"


def _load(name: str, *functions: Path) -> Script:
    text = lua.load(_SCRIPTS / f"{name}.lua", *functions)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ADMIT, RENEW, APPEND, SHARE, LEND = map(_load, ("admit", "renew", "append", "share", "lend"))
SETTLE = _load("settle", _GIVE_BACK, lua.SPEND)
RELEASE, REAP = _load("release", _GIVE_BACK), _load("reap", _GIVE_BACK)
SCRIPTS = (ADMIT, SETTLE, RELEASE, RENEW, REAP, APPEND, SHARE, LEND)


class Counted(NamedTuple):
    """What the counters of a settled call follow from, besides consumer and service."""

    key_lineage: uuid.UUID
    currency: str


class Signature(NamedTuple):
    """What a gateway says of itself with every call: who signs its leases, and the journal's bound."""

    gateway: str
    journal_bound: int


class Ready:
    """The commands of calls with one key at one service, ready but for what differs from call to call.

    They are packed when a call finds another epoch or another day than the one before it.
    """

    __slots__ = ("_admit", "_counted", "_epoch", "_period", "_settle", "limits", "names")

    def __init__(self, names: Names, limits: LimitSet, counted: Counted | None = None) -> None:
        self.names = names
        self.limits = limits
        self._counted = counted
        self._epoch = ""
        self._period: Period | None = None
        self._admit = self._settle = (b"", b"", b"")

    def admit(
        self,
        by: Signature,
        epoch: str,
        period: Period,
        *,
        id_: str,
        at_ms: int,
        deadline_ms: int,
        need: tuple[int, int, int, bool],
        entry: bytes,
    ) -> bytes:
        """``admit.lua``. ``need``: prompt bound, output cap, choices, whether the caller named the cap."""
        if period is not self._period or epoch != self._epoch:
            self._pack(by, epoch, period)
        head, middle, further = self._admit
        id_bytes = id_.encode()
        rest = _bulk(id_, at_ms, deadline_ms, need[0], need[1], need[2], int(need[3]))
        return b"".join((head, id_bytes, middle, rest, b"$%d\r\n%b\r\n" % (len(entry), entry), further))

    def settle(
        self, by: Signature, epoch: str, period: Period, *, id_: str, tokens: int, nano: int, entry: bytes
    ) -> bytes:
        """``settle.lua``."""
        if period is not self._period or epoch != self._epoch:
            self._pack(by, epoch, period)
        head, between, middle = self._settle
        id_bytes = id_.encode()
        rest = _bulk(id_, tokens, nano)
        return b"".join(
            (head, id_bytes, between, id_bytes, middle, rest, b"$%d\r\n%b\r\n" % (len(entry), entry))
        )

    def _pack(self, by: Signature, epoch: str, period: Period) -> None:
        self._admit = _admit_parts(self.names, self.limits, by, epoch, period)
        if self._counted is not None:
            self._settle = _settle_parts(self.names, self._counted, epoch, period)
        self._epoch, self._period = epoch, period


def _admit_parts(
    names: Names, limits: LimitSet, by: Signature, epoch: str, period: Period
) -> tuple[bytes, bytes, bytes]:
    hashes: tuple[str, ...] = ()
    further: tuple[Any, ...] = ()
    if limits.further:
        hashes = names.now, names.spent + period.month, names.spent + period.day
        values = (limit.value for limit in limits.further)
        further = (
            limits.hold(*hashes), limits.kinds, period.day_expires, *limits.nano, *limits.counts, *limits.fields,
            *values,
        )  # fmt: skip
    keys = (names.epoch, names.journal, names.leases, names.bucket, names.quota + period.month)
    head = b"*%d\r\n" % (24 + len(hashes) + len(further))
    head += _bulk("EVALSHA", ADMIT.sha, 6 + len(hashes), *keys)
    middle = b"\r\n" + _bulk(
        *hashes, epoch, by.journal_bound, LEASE_MS, _limit(limits.requests_per_second),
        _limit(limits.tokens_per_month), period.month_expires, by.gateway,
    )  # fmt: skip
    return head + _open_key(names.lease), middle, _bulk(*further)


def _settle_parts(names: Names, counted: Counted, epoch: str, period: Period) -> tuple[bytes, bytes, bytes]:
    keys = (names.epoch, names.journal, names.leases, names.quota + period.month, names.spent + period.month)
    head = b"*23\r\n" + _bulk("EVALSHA", SETTLE.sha, 8, *keys, names.spent + period.day)
    fields = shards.spent_fields(counted.key_lineage, names.service_id, counted.currency)
    middle = b"\r\n" + _bulk(epoch, TOMBSTONE_SECONDS, period.month_expires, period.day_expires, *fields)
    return head + _open_key(names.lease), b"\r\n" + _open_key(names.tombstone), middle


def _bulk(*arguments: Any) -> bytes:
    return "".join([f"${len(text)}\r\n{text}\r\n" for text in map(str, arguments)]).encode()


def _open_key(prefix: str) -> bytes:
    """The beginning of a key that ends with a request's id, which has 36 characters."""
    return f"${len(prefix) + 36}\r\n{prefix}".encode()


def _limit(limit: int | None) -> str:
    return "" if limit is None else str(limit)
