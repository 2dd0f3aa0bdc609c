"""One cluster for all tests of this folder, whole and empty when a test begins."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumption.quota_reading import _valkey
from tests.cluster.market import ClusterMarket
from tests.committed import audit_trail_may_be_emptied, committed
from tests.harness.cluster import MASTERS, NODE_TIMEOUT_MS, Node, ValkeyCluster
from tests.harness.servers import RUN

__all__ = ["audit_trail_may_be_emptied", "committed", "market", "servers", "steady"]


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    cluster = ValkeyCluster([Node(folder / f"node-{n}", [RUN.lock.descriptor]) for n in range(2 * MASTERS)])
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture
def steady(servers: ValkeyCluster) -> Iterator[None]:
    """No node is taken for dead because the machine stalls."""
    servers.set_node_timeout(10_000)
    yield
    servers.set_node_timeout(NODE_TIMEOUT_MS)


@pytest.fixture
def market(committed: None, servers: ValkeyCluster, settings: Any, tmp_path: Path) -> Iterator[ClusterMarket]:
    for node in servers.nodes:
        node.start()
    servers.wait_whole()
    settings.REDIS_URL = servers.url
    settings.VALKEY_CLUSTER = servers.environment["VALKEY_CLUSTER"].split(",")
    _valkey.cache_clear()
    opened = ClusterMarket(servers, tmp_path)
    yield opened
    opened.market.stop()
    sys.stdout.write(opened.market.log.read_text())  # shown where the test failed
    for node in servers.nodes:
        if node.info("replication")["role"] == "master":
            node.ask("FLUSHALL")
    _valkey.cache_clear()
