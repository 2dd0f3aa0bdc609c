"""The drain's place in each journal: it moves in the transaction that writes what was read, or not at all."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection

from metering.models import JournalPosition
from metering.stream import Position, ShardBatch


class Fenced(Exception):
    """A journal is not where it was read from: another drain has it, or another epoch began."""


def load(shards: Iterable[int]) -> dict[int, Position]:
    """The positions of shards that have one."""
    rows = JournalPosition.objects.filter(shard__in=list(shards))
    return {row.shard: Position(row.shard, row.epoch, row.last_id, row.batch) for row in rows}


def advance(batches: Sequence[ShardBatch]) -> None:
    """Move past the batches. Raises ``Fenced`` unless every shard is where its batch was read from."""
    rows = sorted(
        (new.shard, old.epoch, old.last_id, new.last_id, new.batch)
        for old, new in ((batch.position, batch.next_position) for batch in batches)
    )
    moved = _execute(
        """
        UPDATE journal_positions AS p SET last_id = v.new_id, batch = v.batch
        FROM (VALUES {values}) AS v (shard, epoch, old_id, new_id, batch)
        WHERE p.shard = v.shard AND p.epoch = v.epoch AND p.last_id = v.old_id
        """,
        rows,
    )
    if moved != len(rows):
        raise Fenced(f"{len(rows) - moved} of {len(rows)} journals are elsewhere")


def record(batches: Sequence[ShardBatch], changed: dict[int, list[uuid.UUID]]) -> None:
    """The outbox: which rows of the ledger each shard's batch changed. Written for every batch, without a gap."""
    rows = []
    for batch in batches:
        position = batch.next_position
        ids = ",".join(id_.hex for id_ in changed.get(position.shard, ()))
        rows.append((position.shard, position.batch, f"{{{ids}}}"))
    _execute(
        """
        INSERT INTO journal_batches (shard, number, record_ids, drained_at)
        SELECT shard, number, ids::uuid[], now() FROM (VALUES {values}) AS v (shard, number, ids)
        """,
        rows,
    )


def _execute(sql: str, rows: Sequence[Sequence[Any]]) -> int:
    placeholders = "(" + ", ".join(["%s"] * len(rows[0])) + ")"
    values = ", ".join([placeholders] * len(rows))
    with connection.cursor() as cursor:
        cursor.execute(sql.format(values=values), [value for row in rows for value in row])
        return int(cursor.rowcount)
