"""Reading the journals of many shards at once, and telling Valkey what PostgreSQL has."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from metering import shards
from metering.valkey import OneLife

#: Entries of one read, about: enough to spread a transaction's cost, few enough to be done in a tenth of a second.
BATCH = 2_000
#: The same, and rows of one transaction, where more waited than the last read took: the more rows share their rollups,
#: whose updates and commits are shared, the sooner they are through. A transaction of so many takes most of a second.
BACKLOG = 16_000
#: Entries of one shard that a single read takes at most.
MOST_OF_ONE = 1_000
START = "0-0"

_PUBLISH = (Path(__file__).parent / "scripts" / "publish.lua").read_text()


@dataclass(frozen=True, slots=True)
class Position:
    """How far a shard's journal has been drained: ``last_id`` of ``epoch`` is in the ledger, in batch ``batch``."""

    shard: int
    epoch: int
    last_id: str
    batch: int

    @property
    def watermark(self) -> str:
        return f"{self.epoch}:{self.last_id}"


@dataclass(frozen=True, slots=True)
class ShardBatch:
    """Entries of one shard's journal: ids and fields, in order, from ``position`` on."""

    position: Position
    entries: list[tuple[bytes, list[bytes]]]

    @property
    def next_position(self) -> Position:
        last_id = self.entries[-1][0].decode()
        return replace(self.position, last_id=last_id)


class JournalReader:
    """Plain XREAD over the journals of owned shards.

    How much a read takes of each shard follows from how many had something the last time, so that one busy shard
    fills a batch as well as sixty-four do; and from whether any had more.
    """

    def __init__(self, server: OneLife) -> None:
        self._server = server
        self._busy = shards.SHARDS
        self._size = BATCH

    def read(self, positions: Mapping[int, Position], *, block_ms: int | None) -> list[ShardBatch]:
        """What lies beyond the positions; waits up to ``block_ms`` for it, or (None) not at all."""
        if not positions:
            return []
        count = min(MOST_OF_ONE, max(self._size // self._busy, 1))
        keys: dict[Any, Any] = {shards.journal_key(n): position.last_id for n, position in positions.items()}
        reply = (
            self._read_apart(keys, count) if self._server.of_cluster else self._read(keys, count, block_ms)
        )
        owners = {shards.journal_key(n).encode(): position for n, position in positions.items()}
        batches = [ShardBatch(owners[key], entries) for key, entries in reply or ()]
        self._busy = len(batches) or len(positions)
        self._size = BACKLOG if any(len(batch.entries) == count for batch in batches) else BATCH
        return batches

    def _read(self, keys: dict[Any, Any], count: int, block_ms: int | None) -> Any:
        return self._server.client.xread(keys, count=count, block=block_ms)

    def _read_apart(self, keys: dict[Any, Any], count: int) -> Any:
        """On a cluster no command reads several slots, and to wait for one would keep the others waiting."""
        pipeline = self._server.client.pipeline(transaction=False)
        for key, last_id in keys.items():
            pipeline.xread({key: last_id}, count=count)
        return [stream for reply in pipeline.execute() for stream in reply or ()]


def transactions(batches: list[ShardBatch]) -> Iterator[list[ShardBatch]]:
    """The batches of one read in groups of about ``BACKLOG`` entries."""
    group: list[ShardBatch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += len(batch.entries)
        if size >= BACKLOG:
            yield group
            group, size = [], 0
    if group:
        yield group


def publish(server: OneLife, positions: list[Position]) -> None:
    """Set the watermarks, then trim what lies behind them. Only after the commit that moved the positions."""
    pipeline = server.client.pipeline(transaction=False)
    for position in positions:
        pipeline.eval(
            _PUBLISH,
            3,
            shards.epoch_key(position.shard),
            shards.journal_key(position.shard),
            shards.watermark_key(position.shard),
            f"{position.epoch}:{server.run_id}",
            position.watermark,
            after(position.last_id),
        )
    pipeline.execute()


def order(stream_id: str) -> tuple[int, int]:
    """What a stream id is sorted by."""
    milliseconds, _, number = stream_id.partition("-")
    return int(milliseconds), int(number)


def after(stream_id: str) -> str:
    """The smallest stream id beyond this one."""
    milliseconds, number = order(stream_id)
    return f"{milliseconds}-{number + 1}"
