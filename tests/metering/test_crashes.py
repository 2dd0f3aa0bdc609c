"""A drain that is told to stop, and one that is doubled. What else may happen to one: ``tests/schedules``."""

import signal
import time
from typing import Any

import pytest

from metering import positions, shards
from metering.drain import Session
from metering.hand_ins import HandIns
from metering.models import JournalBatch, UsageRecord
from metering.partitions import Known
from metering.stream import Position, ShardBatch
from tests.metering.market import Market


def ids() -> list[Any]:
    return list(UsageRecord.objects.values_list("id", flat=True))


def test_sigterm_ends_a_drain_in_order(market: Market) -> None:
    process = market.start_drain()
    entries = [market.entry() for _ in range(100)]
    market.write(*entries)
    market.wait_until_drained()

    started = time.monotonic()
    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0
    assert time.monotonic() - started < 3
    assert len(ids()) == 100
    assert "Traceback" not in market.log.read_text()


def test_a_second_drain_over_the_same_shard_is_fenced(market: Market) -> None:
    """Both read the same entries: the one that commits second finds the position moved, and writes nothing."""
    market.drain()
    place = positions.load([market.shard])[market.shard]
    entry = market.entry()
    market.write(entry)
    raw: Any = market.valkey.xrange(shards.journal_key(market.shard))
    session = Session(Known(), HandIns())
    stale = ShardBatch(place, [(id_, [b"e", fields[b"e"], b"s", fields[b"s"]]) for id_, fields in raw])
    market.drain()

    with pytest.raises(positions.Fenced):
        session._journals._write([stale])
    with pytest.raises(positions.Fenced):
        session._journals._write(
            [ShardBatch(Position(market.shard, place.epoch + 1, place.last_id, 0), stale.entries)]
        )

    session.close()
    assert (ids(), JournalBatch.objects.count()) == ([entry.request_id], 1)
    market.assert_reconciled()
