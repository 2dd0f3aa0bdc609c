"""A drain that is killed anywhere, doubled, or cut off: the same ledger, each call once."""

import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection

from metering import positions, shards
from metering.drain import Session
from metering.models import JournalBatch, JournalPosition, UsageRecord
from metering.partitions import Known
from metering.stream import Position, ShardBatch
from tests import factories
from tests.harness.proxy import Direction, Proxy
from tests.harness.waiting import wait_for
from tests.metering.market import Market, database_url

STEPS = ("before-staging", "after-merge", "before-commit", "after-commit", "after-trim")
OPENING_STEPS = ("epoch-begun", "epoch-drained", "epoch-set")


def ids() -> list[Any]:
    return list(UsageRecord.objects.values_list("id", flat=True))


@pytest.mark.parametrize("step", STEPS + OPENING_STEPS)
def test_killed_at_a_step_and_started_again_the_ledger_is_the_same(market: Market, step: str) -> None:
    """Two rounds: the first dies while it opens the shards, the second while they are live."""
    written = [market.entry() for _ in range(50)]
    market.write(*written)
    market.write(market.unsettled(request_id=written[0].request_id), how="reaped")
    assert market.start_drain(CRASH_AT=step).wait(30) == -signal.SIGKILL
    market.start_drain()
    market.wait_until_drained()
    market.drains[-1].kill()
    market.drains[-1].wait()

    replayed = [market.entry(prompt_tokens=5, completion_tokens=0) for _ in range(20)]
    market.write(*replayed, *written[:5], how="replay")
    before = market.used()
    if step in STEPS:
        assert market.start_drain(CRASH_AT=step).wait(30) == -signal.SIGKILL
    market.start_drain()
    market.wait_until_drained()

    assert sorted(ids()) == sorted(entry.request_id for entry in written + replayed)
    assert before == 50 * 30
    assert market.used() == 50 * 30 + 20 * 5
    outbox = [id_ for batch in JournalBatch.objects.all() for id_ in batch.record_ids]
    assert sorted(outbox) == sorted(ids())
    market.assert_reconciled()


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


def owners() -> dict[int, int]:
    """How many shards each drain owns, by its server process."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = %s GROUP BY pid",
            [0x6A6F7572],
        )
        return dict(cursor.fetchall())


def test_drains_come_and_go_and_share_the_shards(market: Market) -> None:
    consumers = [factories.make_consumer() for _ in range(40)]
    written = []

    def write(count: int) -> None:
        entries = [market.entry(consumer_id=random.choice(consumers).id) for _ in range(count)]
        market.write(*entries)
        written.extend(entries)

    market.start_drain()
    write(500)
    wait_for(lambda: sorted(owners().values()) == [64])
    market.start_drain()
    while sorted(owners().values()) != [32, 32]:
        write(100)
    market.start_drain()
    while sorted(owners().values()) != [20, 22, 22]:
        write(100)
    market.drains[0].kill()
    while sorted(owners().values()) != [32, 32]:
        write(100)
    market.wait_until_drained()

    assert sorted(ids()) == sorted(entry.request_id for entry in written)
    market.assert_reconciled()
    assert JournalPosition.objects.values_list("epoch", flat=True).distinct().get() == 1


def test_a_second_drain_over_the_same_shard_is_fenced(market: Market) -> None:
    """Both read the same entries: the one that commits second finds the position moved, and writes nothing."""
    market.drain()
    place = positions.load([market.shard])[market.shard]
    entry = market.entry()
    market.write(entry)
    raw: Any = market.valkey.xrange(shards.journal_key(market.shard))
    session = Session(Known())
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


@pytest.fixture
def database_proxy(market: Market) -> Iterator[Proxy]:
    with Proxy(int(connection.settings_dict["PORT"])) as proxy:
        market.environment["DATABASE_URL"] = proxy.url(database_url())
        yield proxy


def test_an_outage_of_postgresql_is_waited_for(market: Market, database_proxy: Proxy) -> None:
    drain = market.start_drain()
    market.write(*[market.entry() for _ in range(10)])
    market.wait_until_drained()

    database_proxy.refuse()
    database_proxy.reset()
    market.write(*[market.entry() for _ in range(10)])
    time.sleep(1.5)
    assert (len(ids()), drain.poll()) == (10, None)
    database_proxy.accept()
    market.wait_until_drained()

    assert len(ids()) == 20
    log = market.log.read_text()
    assert "draining waits: OperationalError" in log
    assert "Traceback" not in log
    market.assert_reconciled()


def test_connections_cut_at_any_moment_of_a_commit_count_nothing_twice(
    market: Market, database_proxy: Proxy
) -> None:
    """What was committed while the answer was lost is found in PostgreSQL, not in the drain's memory."""
    market.start_drain()
    written = []
    for round_ in range(12):
        entries = [market.entry() for _ in range(200)]
        market.write(*entries, how=random.choice(["lease", "replay"]))
        written += entries
        time.sleep(random.uniform(0.0, 0.05))
        if round_ % 3 == 0:
            database_proxy.pause(Direction.TO_CLIENT)
            time.sleep(0.05)
        database_proxy.reset()
        database_proxy.resume(Direction.TO_CLIENT)
    market.wait_until_drained(seconds=60)

    assert sorted(ids()) == sorted(entry.request_id for entry in written)
    market.assert_reconciled()
