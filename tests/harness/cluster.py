"""A Valkey Cluster on loopback: three masters, each with a replica."""

import contextlib
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from devstack.ports import remembered_port
from devstack.private import private_folder, write_private
from devstack.valkey import Valkey
from metering.topology import SHARD_SLOTS, SLOTS
from tests.harness.waiting import wait_for

MASTERS = 3
PASSWORD = "of-every-node"
NODE_TIMEOUT_MS = 2_000
SETTINGS = {
    "cluster-enabled": "yes",
    "cluster-node-timeout": str(NODE_TIMEOUT_MS),
    # A lost master concerns its own slots alone, and its replica tries at once, however old its data.
    "cluster-require-full-coverage": "no",
    "cluster-replica-validity-factor": "0",
    # Each keeps its own: a test knows who will follow whom.
    "cluster-allow-replica-migration": "no",
    "min-replicas-to-write": "1",
    "repl-diskless-sync-delay": "0",
}


class Node(Valkey):
    """One server of a cluster. All of them have one password, since replicas sign in to their masters with it."""

    def __init__(self, folder: Path, inherit: Sequence[int]) -> None:
        super().__init__(folder, inherit=inherit, settings=SETTINGS | {"primaryauth": PASSWORD})
        private_folder(folder)
        write_private(folder / "password", PASSWORD)
        self.bus_port = 0

    def prepare(self) -> None:
        super().prepare()
        self.bus_port = remembered_port(self.folder / "bus-port")
        self.settings["cluster-port"] = str(self.bus_port)

    @property
    def known_ports(self) -> tuple[int, int]:
        """The port and the bus port that everybody else knows it by."""
        return self.port, self.bus_port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.known_ports[0]}"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=5)

    def impatient_client(self) -> redis.Redis:
        """One that soon gives up where the node sleeps or is dead."""
        return redis.Redis.from_url(self.url, socket_timeout=0.05, retry=Retry(NoBackoff(), 0))

    def ask(self, *command: Any) -> Any:
        client = self.client
        client.response_callbacks.clear()
        try:
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        finally:
            client.close()

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER", "MYID").decode())

    def info(self, section: str) -> dict[str, str]:
        text = self.ask("INFO", section) if section != "cluster" else self.ask("CLUSTER", "INFO")
        lines = (line.partition(":") for line in text.decode().splitlines() if ":" in line)
        return {name: value for name, _, value in lines}

    def keep_files(self) -> None:
        """Keep a copy of what its file has now; it goes on meanwhile."""
        shutil.copytree(self.data / "appendonlydir", self.folder / "older")

    def put_back_files(self) -> None:
        """What was kept is its file again. It must not run."""
        shutil.rmtree(self.data / "appendonlydir")
        (self.folder / "older").rename(self.data / "appendonlydir")

    @property
    def is_whole(self) -> bool:
        """Whether it knows of a cluster that works, and is in touch with its replica or master."""
        replication = self.info("replication")
        followed = replication["role"] == "master" and replication.get("min_slaves_good_slaves", "0") != "0"
        follows = replication.get("master_link_status") == "up"
        return self.info("cluster")["cluster_state"] == "ok" and (followed or follows)


class ValkeyCluster:
    """Masters and behind them their replicas, started together in about three seconds."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        return self.nodes[0].url

    @property
    def environment(self) -> dict[str, str]:
        """What points the application at it."""
        return {
            "REDIS_URL": self.url,
            "VALKEY_CLUSTER": ",".join(node.address for node in self.nodes),
            "CELERY_BROKER_URL": "redis://127.0.0.1:9/0",
        }

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        masters, replicas = self.nodes[:MASTERS], self.nodes[MASTERS:]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", *node.known_ports)
        for number, master in enumerate(masters):
            first, last = (SLOTS * n // MASTERS for n in (number, number + 1))
            master.ask("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
        everybody = str(len(self.nodes))
        wait_for(lambda: all(n.info("cluster")["cluster_known_nodes"] == everybody for n in self.nodes))
        for replica, master in zip(replicas, itertools.cycle(masters), strict=False):
            wait_for(lambda replica=replica, master=master: _follows(replica, master))  # type: ignore[misc]
        self.wait_whole()

    def wait_whole(self) -> None:
        """Until every running node is in touch with its replica or master, and all agree on who has what."""
        wait_for(lambda: all(node.is_whole for node in self.nodes if node.running))

    def set_node_timeout(self, ms: int) -> None:
        """How long a node may be silent before another takes its place."""
        for node in self.nodes:
            node.ask("CONFIG", "SET", "cluster-node-timeout", ms)

    def stop(self) -> None:
        for node in self.nodes:
            node.resume()
            node.signal(node.stop_signal)
        for node in self.nodes:
            node.stop()

    def find_master(self, shard: int, *, besides: Node | None = None) -> Node | None:
        """Who of those that run says that it has the shard's slot; one that sleeps must not be asked."""
        running = (node for node in self.nodes if node.running and node is not besides)
        return next((node for node in running if _has(node, SHARD_SLOTS[shard])), None)

    def master_of(self, shard: int) -> Node:
        """``find_master`` of a shard that has one."""
        found = self.find_master(shard)
        assert found is not None
        return found

    def shards_of(self, node: Node) -> list[int]:
        return [shard for shard, slot in enumerate(SHARD_SLOTS) if _has(node, slot)]

    def move(self, shard: int, target: Node) -> None:
        """Hand a shard's slot over, key by key, while clients go on."""
        slot, source = SHARD_SLOTS[shard], self.master_of(shard)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        auth = ("AUTH", target.settings["primaryauth"])
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, *auth, "KEYS", *keys)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.id)


def _has(node: Node, slot: int) -> bool:
    own = next(line for line in node.ask("CLUSTER", "NODES").decode().splitlines() if "myself" in line)
    ranges = [part.split("-") for part in own.split(" ")[8:] if not part.startswith("[")]
    return "master" in own and any(int(each[0]) <= slot <= int(each[-1]) for each in ranges)


def _follows(replica: Node, master: Node) -> bool:
    """It may take a moment until the replica has heard of its master."""
    with contextlib.suppress(redis.ResponseError):
        replica.ask("CLUSTER", "REPLICATE", master.id)
        return True
    return False
