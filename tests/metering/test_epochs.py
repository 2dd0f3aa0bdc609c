"""Whatever life of Valkey answers, its counters are believed only when they are the ledger's."""

import datetime as dt
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from common import clock
from common.ids import uuid7
from devstack.valkey import Valkey
from metering import shards
from metering.models import JournalPosition, QuotaPeriod, ShardEpoch, UsageRecord
from metering.valkey import OneLife, ServerChanged
from tests.harness.waiting import wait_for
from tests.metering.market import Market, open_market
from tests.metering.scripts import admit, counter, epoch, settle


@pytest.fixture
def own_market(committed: None, own_valkey: Valkey, settings: Any, tmp_path: Path) -> Iterator[Market]:
    """A market on a Valkey that the test may kill and erase."""
    settings.REDIS_URL = own_valkey.url
    opened = open_market(tmp_path / "drain.log")
    yield opened
    opened.stop()
    opened.valkey.close()


def run_id(market: Market) -> str:
    info: Any = market.valkey.info("server")
    return str(info["run_id"])


def is_live(market: Market) -> bool:
    """Whether every shard's key names the server that answers, and every row says so too."""
    keys: Any = [market.valkey.get(shards.epoch_key(shard)) for shard in range(shards.SHARDS)]
    numbers = dict(ShardEpoch.objects.filter(state="live").values_list("shard", "number"))
    life = run_id(market)
    expected = [f"{numbers.get(shard)}:{life}".encode() for shard in range(shards.SHARDS)]
    return bool(keys == expected)


def spent(market: Market, period: str) -> dict[str, int]:
    found: Any = market.valkey.hgetall(market.spent_key(period))
    return {name.decode(): int(value) for name, value in found.items()}


def test_the_first_start_opens_all_shards_within_a_second(own_market: Market) -> None:
    for _ in range(5):  # the machine may stall
        started = time.monotonic()
        own_market.drain()
        took = time.monotonic() - started
        if took < 1.0:
            break
        own_market.valkey.flushall()
        ShardEpoch.objects.all().delete()
        JournalPosition.objects.all().delete()

    assert took < 1.0
    assert is_live(own_market)
    assert set(ShardEpoch.objects.values_list("number", flat=True)) == {1}
    assert set(JournalPosition.objects.values_list("epoch", "last_id", "batch")) == {(1, "0-0", 0)}
    assert own_market.valkey.get(shards.watermark_key(63)) == b"1:0-0"


def test_a_drain_that_starts_again_keeps_the_epoch(own_market: Market) -> None:
    own_market.drain()
    before = epoch(own_market)
    own_market.drain()

    assert epoch(own_market) == before
    assert set(ShardEpoch.objects.values_list("number", flat=True)) == {1}


def test_a_restart_with_all_data_keeps_what_was_used_and_what_is_reserved(
    own_market: Market, own_valkey: Valkey
) -> None:
    """The journal holds what was not drained yet, one lease is open, and one call settles after the restart."""
    own_market.drain()
    drained, waiting, open_ = (own_market.entry() for _ in range(3))
    for entry in (drained, waiting, open_):
        assert admit(own_market, entry)[0] == b"ok"
    settle(own_market, drained)
    own_market.drain()
    settle(own_market, waiting)
    assert counter(own_market) == {"used": 60, "reserved": 100}
    old = epoch(own_market)

    own_valkey.restart()
    own_market.drain()

    assert is_live(own_market)
    assert epoch(own_market) == f"2:{run_id(own_market)}"
    assert counter(own_market) == {"used": 60, "reserved": 100}
    assert settle(own_market, open_, under=old) == [b"stale"]
    assert settle(own_market, open_)[0] == b"ok"
    own_market.drain()
    assert counter(own_market) == {"used": 90, "reserved": 0}
    assert UsageRecord.objects.filter(status="success", settlement="lease").count() == 3
    own_market.assert_reconciled()


@pytest.mark.parametrize("how", ["restarted empty", "flushed"])
def test_without_data_counters_come_back_from_the_ledger(
    own_market: Market, own_valkey: Valkey, how: str
) -> None:
    own_market.drain()
    entries = [own_market.entry(key_lineage=own_market.key.lineage) for _ in range(3)]
    for entry in entries:
        admit(own_market, entry)
        settle(own_market, entry)
    own_market.drain()
    # Of a cost in whole nano-units nothing is rounded, so the ledger has what was counted live.
    before = {
        period: spent(own_market, period) for period in (f"{clock.now():%Y%m}", f"{clock.now():%Y%m%d}")
    }
    assert all(before.values())

    if how == "flushed":
        own_market.valkey.flushall()
    else:
        own_valkey.stop()
        own_valkey.erase()
        own_valkey.start()
    assert epoch(own_market) == ""
    own_market.drain()

    assert is_live(own_market)
    assert counter(own_market) == {"used": 90}
    assert own_market.valkey.expiretime(own_market.quota_key) == shards.quota_expires(own_market.month)
    assert {period: spent(own_market, period) for period in before} == before
    assert settle(own_market, own_market.entry())[0] == b"ok"
    own_market.drain()
    assert counter(own_market)["used"] == 120
    own_market.assert_reconciled()


def test_older_data_neither_loses_nor_doubles_a_call(own_market: Market, own_valkey: Valkey) -> None:
    """The copy is from before: of three calls one was drained, one journalled and one open. All were settled since,
    and calls went on."""
    own_market.drain()
    drained, journalled, open_ = entries = [own_market.entry() for _ in range(3)]
    for entry in entries:
        admit(own_market, entry)
    settle(own_market, drained)
    own_market.drain()
    settle(own_market, journalled)
    own_valkey.stop()
    shutil.copytree(own_valkey.data, own_valkey.folder / "older")
    own_valkey.start()
    own_market.drain()
    settle(own_market, open_)
    later = own_market.entry()
    admit(own_market, later)
    settle(own_market, later)
    own_market.drain()
    assert counter(own_market) == {"used": 120, "reserved": 0}

    own_valkey.stop()
    shutil.rmtree(own_valkey.data)
    shutil.copytree(own_valkey.folder / "older", own_valkey.data)
    own_valkey.start()
    assert counter(own_market) == {"used": 60, "reserved": 100}
    own_market.drain()

    # The lease that the copy still knows is held until it is reaped: too much for a while, never too little.
    assert counter(own_market) == {"used": 120, "reserved": 100}
    assert epoch(own_market) == f"3:{run_id(own_market)}"
    assert UsageRecord.objects.count() == 4
    own_market.assert_reconciled()


def test_rows_that_are_younger_than_the_keys_get_a_number_above_both(own_market: Market) -> None:
    own_market.drain()
    own_market.valkey.set(shards.epoch_key(own_market.shard), f"41:{run_id(own_market)}")

    own_market.drain()

    assert is_live(own_market)
    assert epoch(own_market).startswith("42:")


def test_last_months_counters_are_set_too_and_older_ones_are_not(own_market: Market) -> None:
    this = clock.month_start(own_market.month)
    last = clock.month_of(this - dt.timedelta(days=1))
    before = clock.month_of(clock.month_start(last) - dt.timedelta(days=1))
    for month in (last, before):
        moment = clock.month_start(month) + dt.timedelta(days=1)
        own_market.write(own_market.entry(request_id=uuid7(int(moment.timestamp() * 1000))))
    own_market.drain()
    own_market.valkey.flushall()
    own_market.drain()

    found = {key.decode().rpartition(":")[2] for key in own_market.valkey.scan_iter("*:quota:*")}
    assert found == {f"{last:%Y%m}"}
    assert QuotaPeriod.objects.count() == 2


def test_a_running_drain_heals_by_itself(own_market: Market, own_valkey: Valkey) -> None:
    drain = own_market.start_drain()
    wait_for(lambda: is_live(own_market))
    entry = own_market.entry()
    settle(own_market, entry)
    own_market.wait_until_drained()

    own_market.valkey.flushall()
    wait_for(lambda: is_live(own_market), seconds=40)
    assert counter(own_market) == {"used": 30}
    own_valkey.kill()
    time.sleep(1)
    own_valkey.start()
    wait_for(lambda: is_live(own_market), seconds=40)
    own_valkey.restart()
    wait_for(lambda: is_live(own_market), seconds=40)

    assert drain.poll() is None
    assert counter(own_market) == {"used": 30}
    assert set(ShardEpoch.objects.values_list("number", flat=True)) == {4}
    assert "Traceback" not in own_market.log.read_text()


def test_a_full_valkey_is_drained_and_its_shards_are_opened(own_market: Market) -> None:
    own_market.drain()
    own_market.valkey.config_set("maxmemory", "1")
    with pytest.raises(redis.OutOfMemoryError):
        own_market.valkey.set("anything", "1")
    entry = own_market.entry()
    assert settle(own_market, entry)[0] == b"ok"
    own_market.valkey.delete(shards.epoch_key(own_market.shard))

    own_market.drain()

    assert is_live(own_market)
    assert own_market.record(entry).total_tokens == 30
    watermark: Any = own_market.valkey.get(shards.watermark_key(own_market.shard))
    assert watermark.decode() == f"2:{JournalPosition.objects.get(shard=own_market.shard).last_id}"
    assert counter(own_market) == {"used": 30}


def test_a_connection_never_comes_back_to_another_life(own_market: Market, own_valkey: Valkey) -> None:
    server = OneLife()
    assert server.client.ping()
    own_valkey.restart()

    with pytest.raises(redis.ConnectionError):
        server.client.ping()
    with pytest.raises(ServerChanged):
        server.client.ping()
    server.close()
