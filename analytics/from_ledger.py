"""Ledger rows → ``consumption_request`` events, complete, in the order in which each shard was drained.

The drain says what it changed in ``journal_batches``, numbered without a gap in a shard and committed in that order,
since it holds the shard's position. A sequence over the whole table would commit out of order and hide rows.
"""

import datetime as dt
import json
import logging
import uuid
from dataclasses import dataclass

import msgspec
from django.db import connection

from analytics import events
from analytics.models import AnalyticsPosition
from analytics.sinks import EventSink
from common.ids import moment_of
from finance import last_export

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
_RECORD_IDS = """
    SELECT record_ids::text[] FROM journal_batches WHERE (shard, number) IN %s ORDER BY number, shard
"""
# The database writes the JSON: 27 µs of Python an event, and 108 where it was made here from rows of the ORM.
# What it does not name, above all a caller's metadata, goes nowhere.
_EVENTS = """
    SELECT record.id::text, record.service_id::text, record."timestamp", (
        jsonb_build_object(
            'request_id', record.request_id,
            'kind', record.kind,
            'consumer_id', record.consumer_id,
            'service_id', record.service_id,
            'service', service.name || '@' || service.version,
            'api_key_id', record.api_key_id,
            'price_version_id', record.price_version_id,
            'tier', record.tier,
            'status', record.status,
            'settlement', record.settlement,
            'duration_ms', record.duration_ms,
            'tokens', jsonb_build_object(
                'prompt', coalesce(record.usage -> 'prompt_tokens', '0'),
                'completion', coalesce(record.usage -> 'completion_tokens', '0'),
                'cached', coalesce(record.usage -> 'cached_tokens', '0'),
                'reasoning', coalesce(record.usage -> 'reasoning_tokens', '0'),
                'cache_write', coalesce(record.usage -> 'cache_write_tokens', '0'),
                'audio_prompt', coalesce(record.usage -> 'audio_prompt_tokens', '0'),
                'audio_completion', coalesce(record.usage -> 'audio_completion_tokens', '0'),
                'total', record.total_tokens
            ),
            'usage_source', coalesce(record.usage -> 'usage_source', '"none"'),
            'cost', trim_scale(record.cost_amount)::text,
            'currency', record.currency
        ) || CASE WHEN record.corrects IS NULL THEN '{}' ELSE jsonb_build_object('corrects', record.corrects) END
    )::text
    FROM usage_records record
    JOIN services service ON service.id = record.service_id
    WHERE record.id = ANY(%s::uuid[]) AND record."timestamp" BETWEEN %s AND %s
"""
_DELETE_PASSED = """
    DELETE FROM journal_batches batch USING analytics_positions position
    WHERE position.shard = batch.shard AND batch.number <= position.batch - %s AND NOT EXISTS (
        SELECT FROM jsonb_to_recordset(%s::jsonb) AS need (before uuid, positions jsonb), unnest(batch.record_ids) AS id
        WHERE id < need.before
            AND batch.number > coalesce(split_part(need.positions->>batch.shard::text, ':', 3)::bigint, 0)
    )
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
    """Delete batches that have become events, except each shard's last few, and what exports are compared by."""
    needs = [{"before": str(need.before), "positions": need.positions} for need in last_export.needs()]
    with connection.cursor() as cursor:
        cursor.execute(_DELETE_PASSED, [KEPT_BATCHES, json.dumps(needs)])


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


def _record_ids(waiting: _Waiting) -> list[str]:
    """What the batches changed, each row once: it is read as it is now, whichever batch it stands in."""
    with connection.cursor() as cursor:
        cursor.execute(_RECORD_IDS, [tuple(waiting.batches)])
        return list(dict.fromkeys(id_ for (ids,) in cursor.fetchall() for id_ in ids))


def _events_of(ids: list[str]) -> list[events.Event]:
    """``consumption_request`` events of ledger rows. A correction has an id of its own and says what it corrects."""
    if not ids:
        return []
    # Ids sort by their time; so only the partitions of their months are looked into.
    first, last = moment_of(uuid.UUID(min(ids))), moment_of(uuid.UUID(max(ids)))
    with connection.cursor() as cursor:
        cursor.execute(_EVENTS, [ids, first, last])
        found = {row[0]: _event(*row) for row in cursor.fetchall()}
    if len(found) < len(ids):
        logger.error("%s rows of the drain's batches are not in the ledger", len(ids) - len(found))
    return [found[id_] for id_ in ids if id_ in found]


def _event(id_: str, service_id: str, moment: dt.datetime, data: str) -> events.Event:
    return events.Event(
        id=id_, type="consumption_request", subject=service_id, time=moment, data=msgspec.json.decode(data)
    )


def _advance(waiting: _Waiting) -> None:
    AnalyticsPosition.objects.bulk_create(
        [AnalyticsPosition(shard=shard, batch=number) for shard, number in sorted(waiting.positions.items())],
        update_conflicts=True,
        unique_fields=["shard"],
        update_fields=["batch"],
    )
