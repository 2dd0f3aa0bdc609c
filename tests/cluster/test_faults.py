"""On a cluster: who has a shard may die, sleep, be full or change under load, and every call counts once."""

import signal
import time

import pytest

from metering import epochs, shards
from metering.models import ShardEpoch
from tests.cluster.market import ClusterMarket, under_load
from tests.harness.waiting import wait_for


def test_a_master_that_is_killed_under_load_loses_no_call(market: ClusterMarket) -> None:
    """Its replica takes over, and takes calls once it has a replica of its own: the killed one that came back."""
    victim = market.servers.master_of(0)
    of = market.servers.shards_of(victim)

    def kill() -> None:
        victim.kill()
        wait_for(lambda: market.servers.find_master(0))
        victim.start()
        heir = market.servers.master_of(0)
        wait_for(lambda: market.is_opened_by(heir, of))

    market.start_drain()
    opened = under_load(market, kill)

    assert opened.outcomes["unavailable"] > 0
    market.assert_counted_once(opened)
    assert min(ShardEpoch.objects.filter(shard__in=of).values_list("number", flat=True)) > 1


def test_a_master_that_sleeps_until_another_took_over_loses_no_call(market: ClusterMarket) -> None:
    """It wakes up as a master that nobody may believe any more, with commands to read that nobody waits for."""
    victim = market.servers.master_of(0)
    of = market.servers.shards_of(victim)

    def sleep() -> None:
        victim.pause()
        wait_for(lambda: market.servers.find_master(0, besides=victim))
        victim.resume()
        wait_for(lambda: victim.info("replication")["role"] == "slave")
        heir = market.servers.master_of(0)
        wait_for(lambda: market.is_opened_by(heir, of))

    market.start_drain()
    opened = under_load(market, sleep)

    assert opened.outcomes["unavailable"] > 0
    market.assert_counted_once(opened)
    assert min(ShardEpoch.objects.filter(shard__in=of).values_list("number", flat=True)) > 1


@pytest.mark.soak
def test_a_master_that_stalls_for_a_moment_loses_no_call(market: ClusterMarket) -> None:
    victim = market.servers.master_of(0)

    def stall() -> None:
        for _ in range(3):
            victim.pause()
            time.sleep(0.4)
            victim.resume()
            time.sleep(0.1)

    market.start_drain()
    opened = under_load(market, stall)

    assert opened.outcomes["unavailable"] > 0
    market.assert_counted_once(opened)
    # A machine that stalls as well may have made it look dead.
    assert set(ShardEpoch.objects.values_list("state", flat=True)) == {"live"}


@pytest.mark.usefixtures("steady")
def test_a_master_that_is_full_settles_and_lets_nobody_in(market: ClusterMarket) -> None:
    victim = market.servers.master_of(0)

    def fill() -> None:
        victim.ask("CONFIG", "SET", "maxmemory", 1)
        time.sleep(0.5)
        victim.ask("CONFIG", "SET", "maxmemory", 0)

    market.start_drain()
    opened = under_load(market, fill)

    assert opened.outcomes["unavailable"] > 0
    market.assert_counted_once(opened)
    assert set(ShardEpoch.objects.values_list("number", "state")) == {(1, "live")}


@pytest.mark.usefixtures("steady")
def test_counters_are_set_from_nothing_under_load(market: ClusterMarket) -> None:
    def rebuild() -> None:
        epochs.distrust()
        wait_for(epochs.all_live)

    market.start_drain()
    opened = under_load(market, rebuild)

    market.assert_counted_once(opened)
    assert set(ShardEpoch.objects.values_list("number", "state")) == {(2, "live")}


@pytest.mark.usefixtures("steady")
def test_what_all_masters_lose_under_load_gateways_hand_in(market: ClusterMarket) -> None:
    """Journals, leases and counters are gone, of calls that had been answered; no drain has read the last of them."""

    def lose() -> None:
        drain.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        for master in {market.servers.master_of(shard) for shard in range(shards.SHARDS)}:
            master.ask("FLUSHALL")
        drain.send_signal(signal.SIGCONT)
        wait_for(epochs.all_live)

    drain = market.start_drain()
    opened = under_load(market, lose)

    market.assert_counted_once(opened)
    assert set(ShardEpoch.objects.values_list("number", "state")) == {(2, "live")}


def test_older_files_of_every_node_are_made_up_for(market: ClusterMarket) -> None:
    """As after a loss of power in the whole house: what came since is in the ledger, or in no file any more."""
    nodes = market.servers.nodes

    def set_back() -> None:
        drain.send_signal(signal.SIGSTOP)
        for node in nodes:
            node.keep_files()
        time.sleep(0.3)
        for node in nodes:
            node.kill()
        for node in nodes:
            node.put_back_files()
            node.start()
        market.servers.wait_whole()
        drain.send_signal(signal.SIGCONT)
        wait_for(epochs.all_live)

    drain = market.start_drain()
    opened = under_load(market, set_back)

    market.assert_counted_once(opened)
    assert min(ShardEpoch.objects.values_list("number", flat=True)) > 1


def test_slots_that_are_moved_under_load_lose_no_call(market: ClusterMarket) -> None:
    source = market.servers.master_of(1)
    target = next(
        node for node in market.servers.nodes if node is not source and market.servers.shards_of(node)
    )
    moved = market.servers.shards_of(source)[:4]

    def move() -> None:
        for shard in moved:
            market.servers.move(shard, target)
        wait_for(lambda: market.is_opened_by(target, moved))

    market.start_drain()
    opened = under_load(market, move)

    market.assert_counted_once(opened)
    assert min(ShardEpoch.objects.filter(shard__in=moved).values_list("number", flat=True)) > 1
