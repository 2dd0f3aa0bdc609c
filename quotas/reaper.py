"""Closing leases that nobody settled: what they hold is given back, and the call is journalled as ``unsettled``."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from metering import shards, valkey
from quotas import commands
from quotas.leases import GRACE_MS

#: Leases of one shard that one call of the script closes at most.
MOST = 200

_REAP = commands.REAP.text


def reap_expired() -> int:
    """Close every lease that is past its deadline and the grace; returns how many.

    Shards without an epoch wait: whoever opens them looks at their leases anew.
    """
    client = valkey.connect()
    try:
        closed = 0
        open_shards: Iterable[int] = range(shards.SHARDS)
        while reaped := _reap(client, open_shards):
            closed += sum(reaped.values())
            open_shards = [shard for shard, count in reaped.items() if count == MOST]
        return closed
    finally:
        client.close()


def reap(*, shard: int, request_ids: Sequence[uuid.UUID]) -> int:
    """Close these leases of a shard now, whatever their deadline; returns how many were open."""
    client = valkey.connect()
    try:
        epoch: Any = client.get(shards.epoch_key(shard))
        if not epoch or not request_ids:
            return 0
        return _closed(_eval(client, shard, epoch, [str(id_) for id_ in request_ids]))
    finally:
        client.close()


def _reap(client: redis.Redis, of: Iterable[int]) -> dict[int, int]:
    """One round over shards: how many leases each had to close. Shards with none are left out."""
    asked = list(of)
    epochs = client.pipeline(transaction=False)
    for shard in asked:
        epochs.get(shards.epoch_key(shard))
    live = [(shard, epoch) for shard, epoch in zip(asked, epochs.execute(), strict=True) if epoch]
    pipeline = client.pipeline(transaction=False)
    for shard, epoch in live:
        _eval(pipeline, shard, epoch, [])
    counts = [_closed(answer) for answer in pipeline.execute()]
    return {shard: count for (shard, _), count in zip(live, counts, strict=True) if count}


def _eval(client: redis.Redis, shard: int, epoch: bytes, ids: list[str]) -> Any:
    keys = (shards.epoch_key(shard), shards.leases_key(shard), shards.journal_key(shard))
    arguments: tuple[Any, ...] = (epoch, str(GRACE_MS), str(MOST), shards.tag(shard), *ids)
    # By its name: redis-py's pipelines of a cluster have it under no other.
    return client.execute_command("EVAL", _REAP, len(keys), *keys, *arguments)  # type: ignore[no-untyped-call]


def _closed(answer: Any) -> int:
    return int(answer[1]) if answer[0] == b"ok" else 0
