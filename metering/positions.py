"""The drain's place in each journal: it moves in the transaction that writes what was read, or not at all."""

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection

from metering.models import JournalBatch, JournalPosition
from metering.stream import START, Position, ShardBatch


class Fenced(Exception):
    """A journal is not where it was read from: another drain has it, or another epoch began."""


def load(shards: Iterable[int]) -> dict[int, Position]:
    """The positions of shards that have one."""
    rows = JournalPosition.objects.filter(shard__in=list(shards))
    return {row.shard: Position(row.shard, row.epoch, row.last_id, row.batch) for row in rows}


def advance(batches: Sequence[ShardBatch]) -> list[Position]:
    """Move past the batches; returns where that is. Raises ``Fenced`` unless every shard is where its batch was read
    from. Batches are numbered here: those of ``append`` lie between a drain's own."""
    rows = sorted(
        (new.shard, old.epoch, old.last_id, new.last_id)
        for old, new in ((batch.position, batch.next_position) for batch in batches)
    )
    moved = _execute(
        """
        UPDATE journal_positions AS p SET last_id = v.new_id, batch = p.batch + 1
        FROM (VALUES {values}) AS v (shard, epoch, old_id, new_id)
        WHERE p.shard = v.shard AND p.epoch = v.epoch AND p.last_id = v.old_id
        RETURNING p.shard, p.epoch, p.last_id, p.batch
        """,
        rows,
    )
    if len(moved) != len(rows):
        raise Fenced(f"{len(rows) - len(moved)} of {len(rows)} journals are elsewhere")
    return [Position(*row) for row in moved]


def append(shard: int, changed: list[uuid.UUID]) -> None:
    """Say that a person, and no journal, wrote these rows. Call it before anything of the ledger is locked, as a drain
    does, in the transaction that writes them."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO journal_positions AS p (shard, epoch, last_id, batch) VALUES (%s, 0, %s, 1)
            ON CONFLICT (shard) DO UPDATE SET batch = p.batch + 1 RETURNING batch
            """,
            [shard, START],
        )
        (number,) = cursor.fetchone()
    JournalBatch.objects.create(shard=shard, number=number, record_ids=changed)


def record(positions: Iterable[Position], changed: dict[int, list[uuid.UUID]]) -> None:
    """The outbox: which rows of the ledger each shard's batch changed. Written for every batch, without a gap."""
    rows = []
    for position in positions:
        ids = ",".join(id_.hex for id_ in changed.get(position.shard, ()))
        rows.append((position.shard, position.batch, f"{{{ids}}}"))
    _execute(
        """
        INSERT INTO journal_batches (shard, number, record_ids, drained_at)
        SELECT shard, number, ids::uuid[], now() FROM (VALUES {values}) AS v (shard, number, ids) RETURNING 1
        """,
        rows,
    )


def _execute(sql: str, rows: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    placeholders = "(" + ", ".join(["%s"] * len(rows[0])) + ")"
    values = ", ".join([placeholders] * len(rows))
    with connection.cursor() as cursor:
        cursor.execute(sql.format(values=values), [value for row in rows for value in row])
        return list(cursor.fetchall())
