"""Whether all that the journals hold at a moment is in the ledger."""

import time
from typing import Any

from metering import shards, valkey
from metering.models import JournalPosition
from metering.stream import START, order

#: How long a drain that is at work is waited for, seconds.
PATIENCE = 3.0
_PAUSE = 0.05


def behind() -> list[int]:
    """Shards whose drain has not passed, after a short wait, what is in their journal now.

    Raises ``RedisError``.
    """
    waiting = _ends()
    deadline = time.monotonic() + PATIENCE
    while True:
        positions = {row.shard: row for row in JournalPosition.objects.filter(shard__in=waiting)}
        waiting = {
            shard: end for shard, end in waiting.items() if not _has_passed(positions.get(shard), *end)
        }
        if not waiting or time.monotonic() > deadline:
            return sorted(waiting)
        time.sleep(_PAUSE)


def _has_passed(position: JournalPosition | None, epoch: str, last_id: str) -> bool:
    is_live = position is not None and epoch == str(position.epoch)
    return is_live and position is not None and order(position.last_id) >= order(last_id)


def _ends() -> dict[int, tuple[str, str]]:
    """Epoch and last entry by shard. A journal is trimmed of what the ledger has, so an empty one is passed."""
    client = valkey.connect()
    try:
        pipeline = client.pipeline(transaction=False)
        for shard in range(shards.SHARDS):
            pipeline.get(shards.epoch_key(shard))
            pipeline.xrevrange(shards.journal_key(shard), count=1)
        answers: list[Any] = pipeline.execute()
    finally:
        client.close()
    return {
        shard: ((epoch or b"").decode().partition(":")[0], last[0][0].decode() if last else START)
        for shard, (epoch, last) in enumerate(zip(answers[::2], answers[1::2], strict=True))
    }
