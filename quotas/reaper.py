"""Closing leases that nobody settled: what they hold is given back, and the call is journalled as ``unsettled``."""

import uuid
from collections.abc import Sequence
from typing import Any

import redis

from metering import shards, valkey
from quotas import commands
from quotas.leases import GRACE_MS

#: About how many leases of one shard one call of the script looks at.
MOST = 200

_REAP = commands.REAP.text


def reap_expired() -> int:
    """Close every lease that is past its deadline and the grace; returns how many.

    Shards without an epoch wait: whoever opens them looks at their leases anew.
    """
    client = valkey.connect()
    try:
        closed = 0
        cursors = dict.fromkeys(range(shards.SHARDS), b"0")
        while cursors:
            counts, cursors = _reap(client, cursors)
            closed += counts
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
        return _closed(_eval(client, shard, epoch, b"0", [str(id_) for id_ in request_ids]))
    finally:
        client.close()


def _reap(client: redis.Redis, cursors: dict[int, bytes]) -> tuple[int, dict[int, bytes]]:
    """One look at some leases of each shard: how many had to be closed, and where to go on where there are more."""
    epochs = client.pipeline(transaction=False)
    for shard in cursors:
        epochs.get(shards.epoch_key(shard))
    live = [(shard, epoch) for shard, epoch in zip(cursors, epochs.execute(), strict=True) if epoch]
    pipeline = client.pipeline(transaction=False)
    for shard, epoch in live:
        _eval(pipeline, shard, epoch, cursors[shard], [])
    answers = pipeline.execute()
    nexts = {shard: answer[-1] for (shard, _), answer in zip(live, answers, strict=True)}
    return sum(map(_closed, answers)), {
        shard: cursor for shard, cursor in nexts.items() if cursor not in (b"0", b"stale")
    }


def _eval(client: redis.Redis, shard: int, epoch: bytes, cursor: bytes, ids: list[str]) -> Any:
    keys = (
        shards.epoch_key(shard), shards.leases_key(shard), shards.journal_key(shard),
        shards.former_leases_key(shard),
    )  # fmt: skip
    arguments: tuple[Any, ...] = (epoch, str(GRACE_MS), str(MOST), cursor, *ids)
    # By its name: redis-py's pipelines of a cluster have it under no other.
    return client.execute_command("EVAL", _REAP, len(keys), *keys, *arguments)  # type: ignore[no-untyped-call]


def _closed(answer: Any) -> int:
    return int(answer[1]) if answer[0] == b"ok" else 0
