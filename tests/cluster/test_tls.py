"""Valkey over TLS, one server and a cluster: all that speaks to it does, and to nobody whom it cannot verify."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import redis

from devstack.children import gateway_command
from devstack.ports import free_port
from devstack.valkey import Valkey
from metering import epochs, valkey
from metering.models import UsageRecord
from metering.topology import parse_address
from quotas import reaper, safety, sync
from quotas.cluster import Cluster
from quotas.line import Line, Lines
from tests import factories
from tests.cluster.market import until
from tests.cluster.test_local_mode import call
from tests.harness.certificates import make_certificate, server_context
from tests.harness.cluster import Node, ValkeyCluster
from tests.harness.proxy import Proxy
from tests.harness.servers import ROOT
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack
from tests.live.test_faults import Load
from tests.metering.market import database_url

PUBLISH = 'from config.celery import app; app.send_task("quotas.tasks.reap_leases", retry=False)'


@dataclass
class OverTls:
    """Servers behind what ends TLS, and what points the application at them. ``ca``: whom clients should believe."""

    ca: Path
    doors: list[Proxy]
    url: str
    nodes: str = ""
    #: What clients have to show.
    shown: Path | None = None

    def environment(self, ca: Path | None) -> dict[str, str]:
        query = {"ssl_ca_certs": ca, "ssl_certfile": self.shown, "ssl_keyfile": self.shown}
        told = urlencode({name: file for name, file in query.items() if file})
        return {"REDIS_URL": f"{self.url}?{told}", "VALKEY_CLUSTER": self.nodes}

    @property
    def accepted(self) -> int:
        return sum(door.accepted for door in self.doors)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    # redis-py's client of a cluster takes "localhost", and no other name, for its address.
    return make_certificate(tmp_path / "certificate.pem", name="localhost", address="127.0.0.1")


@pytest.fixture
def one_server(committed: None, valkey_server: Valkey, certificate: Path) -> Iterator[OverTls]:
    with Proxy(valkey_server.port, tls=server_context(certificate)) as door:
        yield OverTls(certificate, [door], over_tls(valkey_server.url, f"localhost:{door.port}"))
    client = redis.Redis.from_url(valkey_server.url)
    client.flushall()
    client.close()


@pytest.fixture
def cluster(committed: None, servers: ValkeyCluster, certificate: Path, tmp_path: Path) -> Iterator[OverTls]:
    """It wants its clients' certificates, and is known to them by a name and by ports of their own. Among themselves
    nodes go on to speak plainly.
    """
    shown = make_certificate(tmp_path / "shown.pem", name="a client")
    context = server_context(certificate, clients=shown)
    with contextlib.ExitStack() as held:
        doors = [held.enter_context(Proxy(node.port, tls=context)) for node in servers.nodes]
        announce(servers, "localhost", [door.port for door in doors])
        nodes = ",".join(f"localhost:{door.port}" for door in doors)
        yield OverTls(certificate, doors, over_tls(servers.url, "unused.example"), nodes, shown)
        announce(servers, "", [0] * len(doors))
    for node in servers.nodes:
        if node.info("replication")["role"] == "master":
            node.ask("FLUSHALL")


@pytest.fixture(params=["one_server", "cluster"])
def secured(committed: None, request: pytest.FixtureRequest) -> OverTls:
    found: OverTls = request.getfixturevalue(request.param)
    return found


def over_tls(url: str, place: str) -> str:
    parts = urlsplit(url)
    return parts._replace(scheme="rediss", netloc=f":{parts.password}@{place}").geturl()


def announce(servers: ValkeyCluster, name: str, ports: list[int]) -> None:
    """Returns when every node tells clients of every node so."""
    for node, port in zip(servers.nodes, ports, strict=True):
        node.ask("CONFIG", "SET", "cluster-announce-client-port", port, "cluster-announce-hostname", name)
        node.ask("CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname" if name else "ip")
    known = {(name, port or node.port) for node, port in zip(servers.nodes, ports, strict=True)}
    wait_for(lambda: all(told_of(node) == known for node in servers.nodes))


def told_of(node: Node) -> set[tuple[str, int]]:
    """Names and ports. ``<id> <ip:port@bus[,hostname]> …``."""
    found = set()
    for line in node.ask("CLUSTER", "NODES").decode().splitlines():
        address, _, names = line.split(" ")[1].partition("@")
        found.add((names.partition(",")[2], int(address.rpartition(":")[2])))
    return found


@pytest.fixture
def stack(committed: None, valkey_server: Valkey, tmp_path: Path) -> Iterator[Stack]:
    running = Stack(tmp_path, database_url(), valkey_server)
    yield running
    running.stop()


def test_calls_drain_and_jobs_go_over_tls(secured: OverTls, stack: Stack, settings: Any) -> None:
    environment = secured.environment(secured.ca)
    settings.REDIS_URL = environment["REDIS_URL"]
    settings.VALKEY_CLUSTER = [node for node in secured.nodes.split(",") if node]
    stack.start_drain(PROCESS="gateway", **environment)
    stack.start_upstream()
    service = factories.make_service(endpoint=stack.upstream_url)
    _, text = factories.make_key(service=service)
    wait_for(epochs.all_live)
    gateway = stack.start_gateway(REDIS_URL=settings.REDIS_URL, VALKEY_CLUSTER=secured.nodes)
    load = Load(gateway.url, service, text)
    call(load, 5)
    wait_for(lambda: UsageRecord.objects.filter(status="success").count() == 5)
    assert reaper.reap_expired() == 0
    assert sync.sync_quotas() == []


def test_a_server_that_cannot_be_verified_is_told_nothing(
    one_server: OverTls, stack: Stack, settings: Any, tmp_path: Path
) -> None:
    """Its certificate is of nobody whom one believes; a gateway is then not ready, and jobs fail."""
    foreign = make_certificate(tmp_path / "foreign.pem", name="localhost", address="127.0.0.1")
    environment = one_server.environment(foreign)
    settings.REDIS_URL = environment["REDIS_URL"]
    gateway = start_unready(stack, environment)
    wait_for(lambda: "SSLCertVerificationError" in gateway.child.log.read_text())
    ready = gateway.get("/health/ready")
    assert (ready.status_code, ready.json()["dependencies"]["valkey"]) == (503, "down")
    with pytest.raises(redis.ConnectionError):
        valkey.connect().ping()
    assert one_server.accepted == 0


async def test_a_certificate_of_another_name_is_refused(
    valkey_server: Valkey, tmp_path: Path, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """By gateways, jobs and the drain, of one server and of nodes."""
    other = make_certificate(tmp_path / "other.pem", name="another.example")
    with Proxy(valkey_server.port, tls=server_context(other)) as door:
        place = f"localhost:{door.port}"
        settings.REDIS_URL = url = f"{over_tls(valkey_server.url, place)}?ssl_ca_certs={other}"
        lines: list[Lines] = [Line(url, on_connect=safety.look_at)]
        lines.append(Cluster(url, [parse_address(place)], on_connect=safety.look_at, on_moved=lambda _: None))
        for line in lines:
            await line.start()
        await until(lambda: caplog.text.count("SSLCertVerificationError") > 2)
        assert not any(line.is_open for line in lines)
        for line in lines:
            await line.stop()
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            valkey.connect().ping()
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            valkey.OneLife()
        settings.VALKEY_CLUSTER = [place]
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            valkey.connect()
        with pytest.raises(redis.ConnectionError, match="no node of the cluster answers"):
            valkey.Nodes().topology()
        assert door.accepted == 0


def start_unready(stack: Stack, environment: dict[str, str]) -> GatewayProcess:
    port = free_port()
    child = stack.start_child(
        f"gateway-{port}", gateway_command(port, drain_seconds=1), PROCESS="gateway", **environment
    )
    gateway = GatewayProcess(child, f"http://127.0.0.1:{port}", port)
    wait_for(lambda: is_up(gateway))
    return gateway


def is_up(gateway: GatewayProcess) -> bool:
    with contextlib.suppress(OSError):
        return gateway.get("/health/ready").status_code in (200, 503)
    return False


def published(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """What beat does: a task goes to the queue."""
    return subprocess.run(
        [sys.executable, "-c", PUBLISH],
        env={**os.environ, "DATABASE_URL": database_url(), **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_queue_is_spoken_to_over_tls_and_to_nobody_else(
    one_server: OverTls, valkey_server: Valkey
) -> None:
    """A URL that says nothing of certificates wants one that everybody believes."""
    told_nothing = published(one_server.environment(None))
    assert told_nothing.returncode != 0
    assert "CERTIFICATE_VERIFY_FAILED" in told_nothing.stderr
    assert one_server.accepted == 0

    queue = redis.Redis.from_url(valkey_server.url.removesuffix("0") + "1")
    queue.delete("celery")  # what other tests left there
    assert published(one_server.environment(one_server.ca)).returncode == 0
    assert queue.llen("celery") == 1
    queue.close()
