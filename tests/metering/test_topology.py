"""Who has what, from nodes that do not agree."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from metering.topology import SHARD_SLOTS, SLOTS, Address, Topology, parse_address, slot_of
from metering.valkey import Nodes
from tests.harness.cluster import Node
from tests.harness.servers import RUN
from tests.harness.waiting import wait_for

ASKED = Address("10.0.0.9", 7000)


def view(*lines: str) -> tuple[Address, bytes]:
    return ASKED, "\n".join(lines).encode()


def node(where: str, flags: str, epoch: int, *slots: str) -> str:
    return " ".join((f"{'0' * 40} {where} {flags} - 0 0 {epoch} connected", *slots))


def test_the_slots_are_valkeys_own() -> None:
    """As ``CLUSTER KEYSLOT`` answers: of the tag alone, where there is one."""
    assert slot_of(b"123456789") == 12_739
    assert slot_of(b"{s00}:epoch") == slot_of(b"s00") == SHARD_SLOTS[0]
    assert len(set(SHARD_SLOTS)) == 64


def test_who_claims_a_slot_with_the_higher_epoch_has_it_whoever_is_asked_first() -> None:
    old = view(node("10.0.0.1:1@2", "myself,master", 1, "0-8191"), node("10.0.0.2:1@2", "slave", 1))
    new = view(node("10.0.0.1:1@2", "master,fail", 1), node("10.0.0.2:1@2", "master", 9, "0-8191"))
    for views in ([old, new], [new, old]):
        found = Topology(views)
        assert found.owner(0) == found.owner(8191) == Address("10.0.0.2", 1)
        assert found.owner(8192) is None
        assert found.nodes == {Address("10.0.0.1", 1), Address("10.0.0.2", 1)}


def test_a_single_slot_that_moved_and_names_of_nodes() -> None:
    found = Topology([
        view(
            node(":7000@17000", "myself,master", 3, "0-99", "101-200"),
            node("10.0.0.2:1@2,two.example", "master", 4, "100"),
            node("[::1]:5@6", "master", 5, "300"),
            node(":0@0", "master,noaddr", 99, "0-16383"),
        )
    ])  # fmt: skip
    assert [found.owner(slot) for slot in (99, 100, 101, 300)] == [
        ASKED, Address("two.example", 1), ASKED, Address("::1", 5),
    ]  # fmt: skip


def test_a_shard_whose_slot_is_being_moved_waits() -> None:
    slot = SHARD_SLOTS[5]
    found = Topology([view(node("10.0.0.1:1@2", "master", 1, "0-16383", f"[{slot}->-{'1' * 40}]"))])
    assert found.settled(range(64)) == {Address("10.0.0.1", 1): set(range(64)) - {5}}


@pytest.mark.parametrize("text", ["", "host", "host:", ":6379", "host:port"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="no host:port"):
        parse_address(text)


@pytest.fixture
def lone_node(tmp_path: Path, settings: Any) -> Iterator[Node]:
    """One that has no slots: to itself a cluster that does not serve, as to whoever is cut off with a few."""
    node = Node(tmp_path / "node", [RUN.lock.descriptor])
    node.start()
    settings.REDIS_URL, settings.VALKEY_CLUSTER = node.url, [node.address]
    yield node
    node.stop()


def test_who_hears_none_that_serves_is_cut_off(lone_node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(redis.ConnectionError, match="serves"):
        Nodes().topology()
    lone_node.ask("CLUSTER", "ADDSLOTSRANGE", "0", SLOTS - 1)
    wait_for(lambda: lone_node.info("cluster")["cluster_state"] == "ok")
    nodes = Nodes()
    assert nodes.topology().owner_of(0) == parse_address(lone_node.address)
    lone_node.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
    lone_node.ask("CLUSTER", "DELSLOTS", "0")
    wait_for(lambda: lone_node.info("cluster")["cluster_state"] == "fail")
    nodes.topology()  # a master may just be replaced
    monkeypatch.setattr(Nodes, "PATIENCE", 0.0)
    with pytest.raises(redis.ConnectionError, match="serves"):
        nodes.topology()
