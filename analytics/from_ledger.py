"""Ledger rows → ``consumption_request`` events, complete, in the order in which each shard was drained.

The drain says what it changed in ``journal_batches``, numbered without a gap in a shard and committed in that order,
since it holds the shard's position. A sequence over the whole table would commit out of order and hide rows.
"""

import logging
import uuid
from dataclasses import dataclass

from django.db import connection

from analytics import events
from analytics.models import AnalyticsPosition
from analytics.sinks import EventSink
from catalog.models import Service
from common.ids import moment_of
from metering.models import JournalBatch, UsageRecord

logger = logging.getLogger(__name__)

#: Rows of the ledger in one transaction, about; a batch of the drain is never divided.
ROWS = 2_000
#: Batches of a shard that are kept after they became events, for whoever looks into a difference.
KEPT_BATCHES = 10

# Shards take turns, so that a busy one does not hold up the others; in a shard, the numbers only rise.
_WAITING = """
    SELECT batch.shard, batch.number, cardinality(batch.record_ids)
    FROM journal_batches batch
    LEFT JOIN analytics_positions position ON position.shard = batch.shard
    WHERE batch.number > coalesce(position.batch, 0)
    ORDER BY batch.number - coalesce(position.batch, 0), batch.shard
    LIMIT 500
"""
_DELETE_PASSED = """
    DELETE FROM journal_batches batch USING analytics_positions position
    WHERE position.shard = batch.shard AND batch.number <= position.batch - %s
"""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Batches that come next, as (shard, number), and up to which number each shard then has been read."""

    batches: list[tuple[int, int]]
    positions: dict[int, int]


def move(sink: EventSink) -> int:
    """Turn the next batches into events and move past them, in the caller's transaction.

    Returns how many batches; 0 when none waits.
    """
    waiting = _next()
    if waiting.batches:
        found = _events_of(_record_ids(waiting))
        for start in range(0, len(found), events.BATCH):
            sink.write(found[start : start + events.BATCH])
        _advance(waiting)
    return len(waiting.batches)


def forget_passed() -> None:
    """Delete batches that have become events, except each shard's last few."""
    with connection.cursor() as cursor:
        cursor.execute(_DELETE_PASSED, [KEPT_BATCHES])


def _next() -> _Waiting:
    with connection.cursor() as cursor:
        cursor.execute(_WAITING)
        rows = cursor.fetchall()
    waiting, size = _Waiting([], {}), 0
    for shard, number, records in rows:
        waiting.batches.append((shard, number))
        waiting.positions[shard] = number
        size += records
        if size >= ROWS:
            break
    return waiting


def _record_ids(waiting: _Waiting) -> list[uuid.UUID]:
    """What the batches changed, each row once: it is read as it is now, whichever batch it stands in."""
    batches = JournalBatch.objects.filter(
        shard__in=waiting.positions, number__in={number for _, number in waiting.batches}
    )
    wanted = set(waiting.batches)
    found: dict[uuid.UUID, None] = {}
    for shard, number, ids in batches.order_by("number", "shard").values_list(
        "shard", "number", "record_ids"
    ):
        if (shard, number) in wanted:
            found.update(dict.fromkeys(ids))
    return list(found)


def _events_of(ids: list[uuid.UUID]) -> list[events.Event]:
    if not ids:
        return []
    moments = [moment_of(id_) for id_ in ids]  # so that only their months' partitions are looked into
    records = UsageRecord.objects.filter(id__in=ids, timestamp__range=(min(moments), max(moments)))
    found = {record.id: record for record in records.defer("metadata", "error", "cost")}
    if len(found) < len(ids):
        logger.error("%s rows of the drain's batches are not in the ledger", len(ids) - len(found))
    names = Service.objects.in_bulk({record.service_id for record in found.values()})
    return [
        events.consumption_request(found[id_], str(names[found[id_].service_id]))
        for id_ in ids
        if id_ in found
    ]


def _advance(waiting: _Waiting) -> None:
    AnalyticsPosition.objects.bulk_create(
        [AnalyticsPosition(shard=shard, batch=number) for shard, number in sorted(waiting.positions.items())],
        update_conflicts=True,
        unique_fields=["shard"],
        update_fields=["batch"],
    )
