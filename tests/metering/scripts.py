"""Admission's and settlement's scripts, called as a gateway calls them."""

import struct
import time
import uuid
from typing import Any

import hiredis

from common.ids import milliseconds_of
from metering import journal, shards
from quotas import commands
from quotas.leases import LEASE_MS
from quotas.limits import LimitSet, limit_set
from quotas.names import Periods, names_of
from tests.metering.market import Market

BY = commands.Signature("gateway", 1000)
PERIODS = Periods()
LIMITS = limit_set(None, 1000)


def admit(
    market: Market,
    entry: journal.Entry,
    *,
    cap: int = 90,
    lease_ms: int = LEASE_MS,
    limits: LimitSet = LIMITS,
) -> list[Any]:
    """Let a call of 10 prompt tokens in, under a limit of 1,000 tokens a month where no others are given."""
    id_ = entry.request_id
    now: Any = market.valkey.time()
    milliseconds = now[0] * 1000 + now[1] // 1000
    answer = _run(
        market, commands.ADMIT,
        _ready(market, entry, limits).admit(
            BY, epoch(market), PERIODS.of(milliseconds_of(id_)), id_=str(id_), at_ms=milliseconds,
            deadline_ms=milliseconds + 60_000, need=(10, cap, 1, True),
            entry=journal.encode(market.unsettled(request_id=id_)),
        ),
    )  # fmt: skip
    if answer[0] == b"ok" and lease_ms != LEASE_MS:
        _move_deadline(market, id_, milliseconds + lease_ms)
    return answer


def _move_deadline(market: Market, id_: uuid.UUID, to_ms: int) -> None:
    leases = shards.leases_key(market.shard)
    lease: Any = market.valkey.hget(leases, str(id_))
    market.valkey.hset(leases, str(id_), struct.pack(">d", to_ms) + lease[8:])


def settle(market: Market, entry: journal.Entry, *, under: str | None = None) -> list[Any]:
    id_ = entry.request_id
    return _run(
        market, commands.SETTLE,
        _ready(market, entry).settle(
            BY, under or epoch(market), PERIODS.of(milliseconds_of(id_)), id_=str(id_), tokens=entry.total_tokens,
            nano=entry.cost_nano, entry=journal.encode(entry),
        ),
    )  # fmt: skip


def write_former_lease(market: Market, entry: journal.Entry, deadline: float) -> None:
    """As ``admit.lua`` did before ADR 33, and what it counted."""
    valkey, id_ = market.valkey, str(entry.request_id)
    now = shards.now_key(market.shard, market.consumer.id)
    month, day = (market.spent_key(f"{market.month:{period}}") for period in ("%Y%m", "%Y%m%d"))
    valkey.hincrby(market.quota_key, "reserved", 100)
    valkey.hincrby(now, "c:x", 1)
    valkey.hset(now, "p:x", 500)
    valkey.hincrby(month, "rt:x", 100)
    valkey.hincrby(month, "rm:USD", 910)
    valkey.hset(
        f"{shards.tag(market.shard)}:lease:{id_}",
        mapping={
            "q": market.quota_key, "r": 100, "g": "gateway", "m": 910,
            "e": journal.encode(market.unsettled(request_id=entry.request_id)),
            "h": f"{now} {month} {day} c c:x - p p:x - t rt:x - m rm:USD -",
        },
    )  # fmt: skip
    valkey.zadd(shards.former_leases_key(market.shard), {id_: deadline})


def _ready(market: Market, entry: journal.Entry, limits: LimitSet = LIMITS) -> commands.Ready:
    counted = commands.Counted(entry.counted_key, entry.currency)
    return commands.Ready(names_of(market.consumer.id, market.service.id), limits, counted)


def _run(market: Market, script: commands.Script, command: bytes) -> list[Any]:
    """The command as a gateway sends it, but for the script's text in the place of its digest."""
    reader = hiredis.Reader()
    reader.feed(command)
    arguments: Any = reader.gets()
    answer: Any = market.valkey.execute_command("EVAL", script.text, *arguments[2:])  # type: ignore[no-untyped-call]
    return [b"ok", answer] if isinstance(answer, bytes) else list(answer)


def epoch(market: Market) -> str:
    found: Any = market.valkey.get(shards.epoch_key(market.shard))
    return found.decode() if found else ""


def counter(market: Market) -> dict[str, int]:
    found: Any = market.valkey.hgetall(market.quota_key)
    return {name.decode(): int(value) for name, value in found.items()}


def wait_until_past(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000 + 0.01)
