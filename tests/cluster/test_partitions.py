"""On a cluster: the network parts under load, whoever hears whom, and no call is lost, counted twice or let in twice.

The first master has two replicas: where one of them takes over, the other one follows it, and it serves while the old
master does not know yet that it is none any more.
"""

from collections.abc import Iterator, Sequence

import pytest
from django.db import connection

from metering import shards
from metering.models import ShardEpoch
from metering.ownership import SHARD_LOCK
from tests.cluster.market import AT_ONCE, ClusterMarket, Gate, gates_under_load
from tests.harness.cluster import MASTERS, ValkeyCluster
from tests.harness.network import GATEWAYS, ReachedNode, heal, open_doors, part
from tests.harness.servers import RUN
from tests.harness.waiting import wait_for


class PartedCluster(ValkeyCluster):
    def __init__(self, nodes: Sequence[ReachedNode]) -> None:
        super().__init__(nodes)
        self.reached = nodes

    def heal(self) -> None:
        heal(self.reached)
        self.wait_whole()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PartedCluster]:
    folder = tmp_path_factory.mktemp("parted")
    inherit = [RUN.lock.descriptor]
    nodes = [ReachedNode(folder / f"node-{n}", inherit, number=n) for n in range(2 * MASTERS + 1)]
    with open_doors(nodes):
        cluster = PartedCluster(nodes)
        cluster.start()
        yield cluster
        cluster.stop()


@pytest.fixture
def whole(servers: PartedCluster) -> Iterator[PartedCluster]:
    yield servers
    servers.heal()


def replicas_of(servers: PartedCluster, master: ReachedNode) -> list[ReachedNode]:
    port = str(master.known_ports[0])
    return [node for node in servers.reached if node.info("replication").get("master_port") == port]


def master_of_two(servers: PartedCluster) -> ReachedNode:
    return next(node for node in servers.reached if len(replicas_of(servers, node)) == 2)


def is_master(node: ReachedNode) -> bool:
    return node.info("replication")["role"] == "master"


def opened_by(node: ReachedNode, of: list[int]) -> bool:
    run_id = node.info("server")["run_id"]
    keys = [node.ask("GET", shards.epoch_key(shard)) or b"" for shard in of]
    return all(key.decode().partition(":")[2] == run_id for key in keys)


def wait_for_heir(followers: Sequence[ReachedNode], of: list[int], gate: Gate) -> None:
    """Until one of them has taken over, the drain has opened its shards, and the gateway sends calls there."""
    wait_for(lambda: any(map(is_master, followers)))
    heir = next(filter(is_master, followers))
    wait_for(lambda: opened_by(heir, of))
    wait_for(lambda: all(gate.admission.reaches(shard) for shard in of))


def served(gate: Gate, of: list[int]) -> int:
    return sum(gate.served[shard] for shard in of)


def refused(gate: Gate, of: list[int]) -> int:
    return sum(gate.unavailable[shard] for shard in of)


@pytest.mark.soak
def test_a_gateway_that_a_master_is_kept_from_goes_on_when_it_is_back(
    market: ClusterMarket, whole: PartedCluster
) -> None:
    """Jobs and the other nodes hear it well: nothing is opened anew, and the other gateway goes on."""
    victim = master_of_two(whole)
    of = whole.shards_of(victim)
    lone, other = GATEWAYS

    def keep_apart(gates: Sequence[Gate]) -> None:
        part([victim], of=[lone])
        wait_for(lambda: not any(gates[0].admission.reaches(shard) for shard in of))
        before = [gate.outcomes["settled"] for gate in gates]
        wait_for(
            lambda: all(gate.outcomes["settled"] > one + 20 for gate, one in zip(gates, before, strict=True))
        )
        heal(whole.reached)

    market.start_drain()
    gates = gates_under_load(market, keep_apart, lone, other)

    assert refused(gates[0], of) > 0
    market.assert_counted_once(*gates)
    assert set(ShardEpoch.objects.values_list("number", "state")) == {(1, "live")}


def test_a_master_cut_off_with_a_gateway_lets_nobody_in_whom_its_heir_does_not_know(
    market: ClusterMarket, whole: PartedCluster
) -> None:
    """The drain hears both. What the old master does while it thinks it is one, no replica has: it is not believed."""
    victim = master_of_two(whole)
    of = whole.shards_of(victim)
    followers = replicas_of(whole, victim)
    others = [node for node in whole.reached if node is not victim]
    lone, other = GATEWAYS

    def split(gates: Sequence[Gate]) -> None:
        part(others, of=[victim, lone])
        alone = served(gates[0], of)
        wait_for_heir(followers, of, gates[1])
        before = served(gates[1], of)
        wait_for(lambda: served(gates[1], of) > before + 20)
        # No more than ran already.
        assert served(gates[0], of) <= alone + 2 * AT_ONCE
        assert refused(gates[0], of) > 0
        whole.heal()

    market.start_drain()
    gates = gates_under_load(market, split, lone, other)

    market.assert_counted_once(*gates)
    assert min(ShardEpoch.objects.filter(shard__in=of).values_list("number", flat=True)) > 1


@pytest.mark.soak
def test_a_master_cut_off_with_its_only_replica_refuses_until_the_network_is_whole(
    market: ClusterMarket, whole: PartedCluster
) -> None:
    """There is no heir. It goes on, rightly, until it misses the majority; then it serves nobody."""
    victim = next(node for node in whole.reached if len(replicas_of(whole, node)) == 1)
    of = whole.shards_of(victim)
    cut_off = [victim, *replicas_of(whole, victim)]
    others = [node for node in whole.reached if node not in cut_off]

    def split(gates: Sequence[Gate]) -> None:
        part(cut_off, of=others)
        wait_for(lambda: victim.info("cluster")["cluster_state"] == "fail")
        before = refused(gates[0], of)
        wait_for(lambda: refused(gates[0], of) > before)
        whole.heal()

    market.start_drain()
    gates = gates_under_load(market, split, *GATEWAYS)

    market.assert_counted_once(*gates)
    # Nodes that are told first that it is away, and then that it is back, may still replace it.
    assert set(ShardEpoch.objects.values_list("state", flat=True)) == {"live"}


def test_what_a_master_and_one_replica_did_alone_is_not_lost_on_the_heir(
    market: ClusterMarket, whole: PartedCluster
) -> None:
    """Its answers were believed, since a replica had them; the other replica takes over without, and is told."""
    victim = master_of_two(whole)
    of = whole.shards_of(victim)
    companion, heir = replicas_of(whole, victim)
    others = [node for node in whole.reached if node not in (victim, companion)]
    lone, other = GATEWAYS

    def split(gates: Sequence[Gate]) -> None:
        before = served(gates[0], of)
        part(others, of=[victim, companion, lone])
        wait_for(lambda: is_master(heir))
        assert served(gates[0], of) > before
        whole.heal()
        wait_for(lambda: opened_by(heir, of))

    market.start_drain()
    gates = gates_under_load(market, split, lone, other)

    market.assert_counted_once(*gates)
    assert min(ShardEpoch.objects.filter(shard__in=of).values_list("number", flat=True)) > 1


def owned() -> list[int]:
    """How many shards each drain owns."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = %s
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY pid
            """,
            [SHARD_LOCK],
        )
        return sorted(count for (count,) in cursor.fetchall())


@pytest.mark.soak
def test_a_drain_cut_off_with_a_master_leaves_its_shards_to_the_others(
    market: ClusterMarket, whole: PartedCluster
) -> None:
    """It reaches PostgreSQL, and so it would keep the shards that it can do nothing for."""
    victim = master_of_two(whole)
    of = whole.shards_of(victim)
    followers = replicas_of(whole, victim)
    others = [node for node in whole.reached if node is not victim]
    lone, other = GATEWAYS

    def split(gates: Sequence[Gate]) -> None:
        part(others, of=[victim, lone])
        wait_for(lambda: owned() == [shards.SHARDS])
        wait_for_heir(followers, of, gates[0])
        whole.heal()
        wait_for(lambda: owned() == [shards.SHARDS // 2] * 2)

    market.start_drain(lone)
    market.start_drain()
    wait_for(lambda: owned() == [shards.SHARDS // 2] * 2)
    gates = gates_under_load(market, split, other)

    market.assert_counted_once(*gates)
