"""A drain that is told to stop, and one that is doubled. What else may happen to one: ``tests/schedules``."""

import signal
from typing import Any

import psycopg2.extensions
import pytest
from django.db import connection

from metering import positions, shards
from metering.drain import Session
from metering.hand_ins import HandIns
from metering.models import JournalBatch, UsageRecord
from metering.partitions import Known
from metering.stream import Position, ShardBatch
from tests.metering.market import Market
from tests.superuser import superuser_cursor


def ids() -> list[Any]:
    return list(UsageRecord.objects.values_list("id", flat=True))


def test_sigterm_ends_a_drain_in_order(market: Market) -> None:
    process = market.start_drain()
    entries = [market.entry() for _ in range(100)]
    market.write(*entries)
    market.wait_until_drained()

    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0
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


def test_a_session_that_dies_while_a_cursor_of_it_is_closed_is_only_an_outage(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing one asks the server. Of what goes wrong then Django makes no error of its own, and the drain ended."""
    died: list[int] = []

    class Closed(psycopg2.extensions.cursor):
        def close(self) -> None:
            if self.name and not died:
                died.append(self.connection.info.backend_pid)
                with superuser_cursor() as cursor:
                    cursor.execute("SELECT pg_terminate_backend(%s, 5000)", died)
            super().close()

    entry = market.entry()
    market.write(entry)
    connection.close()
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "cursor_factory", Closed)
    market.drain()

    assert died
    assert ids() == [entry.request_id]
