"""The two commands of every paid call, as bytes on the wire (RESP).

Most of what they carry is the same for every call of one consumer and service, so it is written once and kept; packing
all arguments anew was a tenth of a call's cost.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from quotas.names import Names

#: A tombstone outlives the 60 s in which a settle of unknown fate is repeated.
TOMBSTONE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and the digest Valkey knows it by."""

    text: str
    sha: str


def _load(name: str) -> Script:
    text = (Path(__file__).parent / "scripts" / f"{name}.lua").read_text()
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ADMIT, SETTLE, RELEASE, RENEW, REAP, APPEND = map(
    _load, ("admit", "settle", "release", "renew", "reap", "append")
)
SCRIPTS = (ADMIT, SETTLE, RELEASE, RENEW, REAP, APPEND)


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """What calls share within a month, an epoch and a set of limits: one object for each, compared by identity.

    ``gateway``: who signs leases. ``month``: ``202511``; ``expires``: when its counters go, seconds since the epoch.
    """

    epoch: str
    gateway: str
    journal_bound: int
    lease_ms: int
    requests_per_second: int | None
    tokens_per_month: int | None
    month: str
    expires: int


def admit(
    names: Names,
    fixed: Fixed,
    *,
    id_: str,
    at_ms: int,
    deadline_ms: int,
    need: tuple[int, int, int, bool],
    entry: bytes,
) -> bytes:
    """``admit.lua``. ``need``: prompt bound, output cap, choices, whether the caller named the cap."""
    head, middle = _admit_parts(names, fixed)
    rest = _bulk(id_, at_ms, deadline_ms, need[0], need[1], need[2], int(need[3]))
    return b"".join((head, id_.encode(), middle, rest, b"$%d\r\n%b\r\n" % (len(entry), entry)))


def settle(
    names: Names, *, epoch: str, month: str, expires: int, id_: str, tokens: int, entry: bytes
) -> bytes:
    """``settle.lua``."""
    head, between, middle = _settle_parts(names, epoch, month, expires)
    id_bytes = id_.encode()
    rest = _bulk(id_, tokens)
    return b"".join((head, id_bytes, between, id_bytes, middle, rest, b"$%d\r\n%b\r\n" % (len(entry), entry)))


@lru_cache(maxsize=65_536)
def _admit_parts(names: Names, fixed: Fixed) -> tuple[bytes, bytes]:
    head = b"*24\r\n" + _bulk(
        "EVALSHA",
        ADMIT.sha,
        6,
        names.epoch,
        names.journal,
        names.leases,
        names.bucket,
        names.quota + fixed.month,
    )
    middle = b"\r\n" + _bulk(
        fixed.epoch, fixed.journal_bound, fixed.lease_ms, _limit(fixed.requests_per_second),
        _limit(fixed.tokens_per_month), fixed.expires, fixed.gateway,
    )  # fmt: skip
    return head + _open_key(names.lease), middle


@lru_cache(maxsize=65_536)
def _settle_parts(names: Names, epoch: str, month: str, expires: int) -> tuple[bytes, bytes, bytes]:
    head = b"*15\r\n" + _bulk(
        "EVALSHA", SETTLE.sha, 6, names.epoch, names.journal, names.leases, names.quota + month
    )
    middle = b"\r\n" + _bulk(epoch, TOMBSTONE_SECONDS, expires)
    return head + _open_key(names.lease), b"\r\n" + _open_key(names.tombstone), middle


def _bulk(*arguments: Any) -> bytes:
    return "".join([f"${len(text)}\r\n{text}\r\n" for text in map(str, arguments)]).encode()


def _open_key(prefix: str) -> bytes:
    """The beginning of a key that ends with a request's id, which has 36 characters."""
    return f"${len(prefix) + 36}\r\n{prefix}".encode()


def _limit(limit: int | None) -> str:
    return "" if limit is None else str(limit)
