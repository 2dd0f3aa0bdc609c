"""The two commands of every paid call, as bytes on the wire (RESP).

Most of what they carry is the same for every call of one consumer and service, so it is written once and kept; packing
all arguments anew was a tenth of a call's cost.
"""

import hashlib
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from metering import lua, shards
from quotas.leases import LEASE_MS
from quotas.limits import LimitSet
from quotas.names import Names, Period


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest Valkey knows it by."""

    text: str
    sha: str


_SCRIPTS = Path(__file__).parent / "scripts"
_CLOSE = (lua.LEASE, lua.ADD, _SCRIPTS / "close.lua")


def _load(name: str, *functions: Path) -> Script:
    text = lua.load(_SCRIPTS / f"{name}.lua", *functions)
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ADMIT, RENEW, APPEND, SHARE, LEND, HAND_IN = map(
    _load, ("admit", "renew", "append", "share", "lend", "hand_in")
)
SETTLE = _load("settle", lua.LEASE, lua.ADD, lua.SPEND)
RELEASE, REAP = _load("release", *_CLOSE), _load("reap", *_CLOSE, lua.ADOPT)
SCRIPTS = (ADMIT, SETTLE, RELEASE, RENEW, REAP, APPEND, SHARE, LEND, HAND_IN)


class Counted(NamedTuple):
    """What the counters of a settled call follow from, besides consumer and service."""

    key_lineage: uuid.UUID
    currency: str


class Signature(NamedTuple):
    """What a gateway says of itself with every call: who signs its leases, and the journal's bound."""

    gateway: str
    journal_bound: int


#: The id's time, the caller's deadline, prompt bound, output cap, choices, whether the caller named the cap.
_CALL = struct.Struct(">6d")
#: Tokens used, and their cost in nano-units.
_USED = struct.Struct(">2d")
#: What ends the argument before, and begins the next.
_BEFORE_CALL, _BEFORE_USED = (b"\r\n$%d\r\n" % packed.size for packed in (_CALL, _USED))


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
        self._admit = self._settle = (b"", b"")

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
        head, hold = self._admit
        return b"%b%b%b%b\r\n$%d\r\n%b%b\r\n" % (
            head, id_.encode(), _BEFORE_CALL, _CALL.pack(at_ms, deadline_ms, *need),
            len(hold) + len(entry), hold, entry,
        )  # fmt: skip

    def settle(
        self, by: Signature, epoch: str, period: Period, *, id_: str, tokens: int, nano: int, entry: bytes
    ) -> bytes:
        """``settle.lua``."""
        if period is not self._period or epoch != self._epoch:
            self._pack(by, epoch, period)
        head, between = self._settle
        id_bytes = id_.encode()
        return b"%b%b%b%b%b%b\r\n$%d\r\n%b\r\n" % (
            head, id_bytes, between, id_bytes, _BEFORE_USED, _USED.pack(tokens, nano), len(entry), entry,
        )  # fmt: skip

    def _pack(self, by: Signature, epoch: str, period: Period) -> None:
        self._admit = _admit_parts(self.names, self.limits, by, epoch, period)
        if self._counted is not None:
            self._settle = _settle_parts(self.names, self._counted, epoch, period)
        self._epoch, self._period = epoch, period


def _admit_parts(
    names: Names, limits: LimitSet, by: Signature, epoch: str, period: Period
) -> tuple[bytes, bytes]:
    """The command up to the request's id; and what its last argument begins with."""
    keys = [names.epoch, names.journal, names.leases, names.bucket, names.quota + period.month]
    _, same = _packed(epoch, by.journal_bound, LEASE_MS, *(
        -1 if limit is None else limit for limit in (limits.requests_per_second, limits.tokens_per_month)
    ), period.month_expires)  # fmt: skip
    if limits.further:
        keys += _hashes(names, period)
        values = [each for limit in limits.further for each in (limit.value, ord(limit.kind))]
        layout, further = _packed(period.day_expires, *limits.nano, *limits.counts, *values, *limits.fields)
        same += b">%b\0%b" % (layout.encode(), further)
    head = b"*%d\r\n" % (3 + len(keys) + 4) + _bulk("EVALSHA", ADMIT.sha, len(keys), *keys, same) + _open_id()
    return head, _hold(names, limits, by, period)


def lease(
    by: Signature, names: Names, limits: LimitSet, period: Period, *, need: tuple[int, int, int], entry: bytes
) -> bytes:
    """A lease as ``admit.lua`` writes it, but for its deadline. ``need``: prompt bound, output cap, choices."""
    prompt, cap, choices = need
    call, each_prompt, each_output = limits.nano
    tokens = prompt + choices * cap
    nano = call + prompt * each_prompt + choices * cap * each_output
    return _USED.pack(tokens, nano) + _hold(names, limits, by, period) + entry


def _hold(names: Names, limits: LimitSet, by: Signature, period: Period) -> bytes:
    return limits.hold(by.gateway, names.quota + period.month, *_hashes(names, period))


def _hashes(names: Names, period: Period) -> tuple[str, str, str]:
    return names.now, names.spent + period.month, names.spent + period.day


def _settle_parts(names: Names, counted: Counted, epoch: str, period: Period) -> tuple[bytes, bytes]:
    keys = (
        names.epoch, names.journal, names.leases, names.quota + period.month, names.spent + period.month,
        names.spent + period.day,
    )  # fmt: skip
    fields = shards.spent_fields(counted.key_lineage, names.service_id, counted.currency)
    _, same = _packed(epoch, shards.TOMBSTONE_SECONDS, period.month_expires, period.day_expires, *fields)
    head = b"*14\r\n" + _bulk("EVALSHA", SETTLE.sha, 7, *keys) + _open_id(names.tombstone)
    return head, b"\r\n" + _bulk(same) + _open_id()


def _packed(*values: str | int) -> tuple[str, bytes]:
    """How Lua's ``struct`` takes them apart, and the values: numbers as doubles, text with a zero at its end."""
    layout = "".join("s" if isinstance(value, str) else "d" for value in values)
    parts = (value.encode() + b"\0" if isinstance(value, str) else _DOUBLE.pack(value) for value in values)
    return layout, b"".join(parts)


_DOUBLE = struct.Struct(">d")


def _bulk(*arguments: str | int | bytes) -> bytes:
    """Arguments as they go over the wire."""
    texts = (each if isinstance(each, bytes) else str(each).encode() for each in arguments)
    return b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])


def _open_id(prefix: str = "") -> bytes:
    """The beginning of an argument that ends with a request's id, which has 36 characters."""
    return b"$%d\r\n%b" % (len(prefix) + 36, prefix.encode())
