"""``manage.py rebuild_quotas``: every counter from nothing, while calls go on, wherever it is broken off."""

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection

from devstack.layout import ROOT
from metering import epochs, positions, shards
from metering.models import QuotaPeriod, ShardEpoch
from metering.positions import Fenced
from metering.valkey import OneLife
from quotas import sync
from tests.metering.market import Market, database_url
from tests.metering.scripts import admit, counter, epoch, settle, write_former_lease


def now(market: Market) -> dict[str, str]:
    found: Any = market.valkey.hgetall(shards.now_key(market.shard, market.consumer.id))
    return {name.decode(): value.decode() for name, value in found.items()}


def spent(market: Market, period: str) -> dict[str, int]:
    found: Any = market.valkey.hgetall(market.spent_key(period))
    return {name.decode(): int(value) for name, value in found.items()}


@pytest.fixture
def wrong_market(market: Market) -> Market:
    """Three calls drained and one open; then all that counts is made wrong, and keys appear that nobody used."""
    market.drain()
    for _ in range(3):
        entry = market.entry()
        admit(market, entry)
        settle(market, entry)
    market.drain()
    admit(market, market.entry())
    valkey, consumer = market.valkey, market.consumer.id
    valkey.hset(market.quota_key, mapping={"used": "7", "reserved": "12345"})
    valkey.hset(shards.quota_key(market.shard, consumer, consumer, market.month), "used", "9")
    valkey.hset(market.spent_key(f"{market.month:%Y%m}"), mapping={"m:USD": "1", "rm:USD": "5", "m:XXX": "3"})
    valkey.hset(market.spent_key("20200101"), "m:USD", "1")
    valkey.hset(
        shards.now_key(market.shard, consumer), mapping={"c:service": "3", "p:key": "77", "p:key:at": "1"}
    )
    return market


def assert_right(market: Market) -> None:
    """Ninety tokens at 0.009 USD, and the open call."""
    assert counter(market) == {"used": 90, "reserved": 100}
    assert market.valkey.expiretime(market.quota_key) == shards.quota_expires(market.month)
    quotas = list(market.valkey.scan_iter("*:quota:*"))
    assert quotas == [market.quota_key.encode()]
    money = dict.fromkeys(
        (f"m:USD{of}" for of in ("", f":{market.key.lineage}", f":{market.service.id}")), 9_000_000
    )
    assert spent(market, f"{market.month:%Y%m}") == money | {f"t:{market.key.lineage}": 90}
    assert spent(market, "20200101") == {}
    # What buckets hold the ledger does not know: emptied, a minute's tokens could be had twice.
    assert now(market) == {"p:key": "77", "p:key:at": "1"}


def test_open_leases_of_former_versions_count_like_others(market: Market) -> None:
    market.drain()
    entry = market.entry()
    write_former_lease(market, entry, float("inf"))
    call_command("rebuild_quotas")

    period = f"{market.month:%Y%m}"
    assert counter(market) == {"used": 0, "reserved": 100}
    assert now(market) == {"c:x": "1", "p:x": "500"}
    assert spent(market, period) == {"rt:x": 100, "rm:USD": 910}
    assert settle(market, entry)[0] == b"ok"
    assert counter(market) == {"used": 30, "reserved": 0}
    assert now(market) == {"c:x": "0", "p:x": "570"}
    assert (spent(market, period)["rt:x"], spent(market, period)["rm:USD"]) == (0, 0)
    assert market.valkey.exists(shards.former_leases_key(market.shard), shards.leases_key(market.shard)) == 0


def test_whatever_was_wrong_is_as_the_ledger_and_the_open_leases_have_it(wrong_market: Market) -> None:
    call_command("rebuild_quotas")

    assert_right(wrong_market)
    assert set(ShardEpoch.objects.values_list("number", "state")) == {(2, "live")}
    call_command("rebuild_quotas")
    assert_right(wrong_market)
    assert not sync.sync_quotas()


@pytest.mark.parametrize("at", ["epoch-begun", "epoch-set"])
def test_broken_off_anywhere_the_next_drain_goes_on_with_it(wrong_market: Market, at: str) -> None:
    """A shard that was begun is still one that has to forget."""
    environment = {"DATABASE_URL": database_url(), "REDIS_URL": settings.REDIS_URL, "CRASH_AT": at}
    command = [sys.executable, "manage.py", "rebuild_quotas"]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, timeout=30)
    assert killed.returncode == -9

    wrong_market.drain()
    while not epochs.all_live():
        wrong_market.drain()

    assert_right(wrong_market)


def test_calls_go_on_meanwhile_and_none_is_lost_or_counted_twice(market: Market) -> None:
    market.start_drain()
    market.start_drain()
    stop, refused = threading.Event(), threading.Event()
    settled = []

    def call() -> None:
        while not stop.is_set():
            entry = market.entry()
            if admit(market, entry)[0] == b"stale" or settle(market, entry)[0] == b"stale":
                refused.set()
                market.write(entry, how="replay")  # as a gateway does that cannot settle
            settled.append(entry)
        connection.close()

    while epoch(market) == "":
        stop.wait(0.01)
    caller = threading.Thread(target=call)
    caller.start()
    elsewhere = (market.shard + 1) % shards.SHARDS
    stray = shards.quota_key(elsewhere, market.consumer.id, market.service.id, market.month)
    market.valkey.hset(stray, "used", "1")
    call_command("rebuild_quotas")
    stop.wait(0.1)
    stop.set()
    caller.join()
    market.wait_until_drained()

    assert refused.is_set()
    assert QuotaPeriod.objects.get().used == 30 * len(settled)
    assert counter(market)["used"] == 30 * len(settled)
    market.assert_reconciled()
    assert not market.valkey.exists(stray)


def test_a_drain_that_was_overtaken_sets_nothing(wrong_market: Market) -> None:
    server = OneLife()
    mine = epochs.begin(server, [wrong_market.shard])
    wrong_market.drain()
    wrong_market.valkey.hset(wrong_market.quota_key, "used", "120")
    live = epoch(wrong_market)

    with pytest.raises(Fenced):
        epochs.finish(server, mine)

    assert counter(wrong_market)["used"] == 120
    assert epoch(wrong_market) == live
    assert positions.load([wrong_market.shard])[wrong_market.shard].epoch == 3
    server.close()
