"""Admission's and settlement's scripts, called as a gateway calls them."""

import time
from typing import Any

from common.ids import moment_of
from metering import journal, shards
from quotas import commands
from quotas.leases import LEASE_MS
from tests.metering.market import Market


def admit(market: Market, entry: journal.Entry, *, cap: int = 90, lease_ms: int = LEASE_MS) -> list[Any]:
    """Let a call of 10 prompt tokens in, under a limit of 1,000 tokens a month."""
    shard, id_ = market.shard, entry.request_id
    unsettled = journal.encode(market.unsettled(request_id=id_))
    now: Any = market.valkey.time()
    milliseconds = now[0] * 1000 + now[1] // 1000
    answer: Any = market.valkey.eval(
        commands.ADMIT.text, 6,
        shards.epoch_key(shard), shards.journal_key(shard), shards.leases_key(shard),
        shards.bucket_key(shard, market.consumer.id, market.service.id), market.quota_key,
        shards.lease_key(shard, id_),
        epoch(market), "1000", str(lease_ms), "", "1000", str(shards.quota_expires(market.month)), "gateway",
        str(id_), str(milliseconds), str(milliseconds + 1000), "10", str(cap), "1", "1", unsettled,
    )  # fmt: skip
    return list(answer)


def settle(market: Market, entry: journal.Entry, *, under: str | None = None) -> list[Any]:
    shard, id_ = market.shard, entry.request_id
    day = moment_of(id_).date()
    answer: Any = market.valkey.eval(
        commands.SETTLE.text, 8,
        shards.epoch_key(shard), shards.journal_key(shard), shards.leases_key(shard), market.quota_key,
        market.spent_key(f"{day:%Y%m}"), market.spent_key(f"{day:%Y%m%d}"),
        shards.lease_key(shard, id_), shards.tombstone_key(shard, id_),
        under or epoch(market), "120", str(shards.quota_expires(market.month)), str(shards.day_expires(day)),
        *shards.spent_fields(entry.counted_key, entry.service_id, entry.currency),
        str(id_), str(entry.total_tokens), str(entry.cost_nano), journal.encode(entry),
    )  # fmt: skip
    return list(answer)


def epoch(market: Market) -> str:
    found: Any = market.valkey.get(shards.epoch_key(market.shard))
    return found.decode() if found else ""


def counter(market: Market) -> dict[str, int]:
    found: Any = market.valkey.hgetall(market.quota_key)
    return {name.decode(): int(value) for name, value in found.items()}


def wait_until_past(milliseconds: int) -> None:
    time.sleep(milliseconds / 1000 + 0.01)
