"""The jobs' connections to Valkey: bytes in and out, every wait bounded, nothing repeated behind the caller's back."""

import math
import time
from typing import Any, cast

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from metering.topology import Address, Topology, parse_address

#: Seconds for one answer. Longer than the longest blocking read.
SOCKET_TIMEOUT = 5.0
CONNECT_TIMEOUT = 2.0
#: The same where a cluster is spoken to: one of its masters must not keep the others waiting.
CLUSTER_TIMEOUT = 1.0


class ServerChanged(redis.ConnectionError):
    """The connection broke and came back to another server, or to another life of the same one."""


def connect(*, timeout: float = SOCKET_TIMEOUT) -> redis.Redis:
    """A client for jobs, of the server or of the cluster. Its errors are ``redis.RedisError``; none is retried."""
    if settings.VALKEY_CLUSTER:
        # They share their commands, not a class.
        return cast("redis.Redis", _cluster(min(timeout, CLUSTER_TIMEOUT)))
    return _client(socket_timeout=timeout, socket_connect_timeout=min(timeout, CONNECT_TIMEOUT))


def owner(client: redis.Redis, key: str) -> redis.Redis:
    """A client of the server that has the key, for transactions: those of redis-py's cluster bring raw replies."""
    if not settings.VALKEY_CLUSTER:
        return client
    cluster = cast("RedisCluster", client)
    try:
        found: redis.Redis = cluster.get_redis_connection(cluster.get_node_from_key(key))  # type: ignore[no-untyped-call]
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error
    return found


class OneLife:
    """A client that speaks to one life of one server and to no other.

    ``run_id`` names that life. A connection that comes back to anything else raises ``ServerChanged`` instead of
    sending, so what was read from one life is never acknowledged in another. ``address``: of a master of a cluster.
    """

    def __init__(self, address: Address | None = None) -> None:
        self.run_id = ""
        self.of_cluster = address is not None
        where: dict[str, Any] = {}
        if address is not None:
            where = {"address": address, "socket_timeout": CLUSTER_TIMEOUT, "socket_connect_timeout": 0.5}
        self.client = _client(redis_connect_func=self._greet, **where)
        # The reply as it comes: turning each entry into a dictionary costs more than reading it.
        self.client.set_response_callback("XREAD", _as_it_comes)
        self.client.ping()

    def _greet(self, connection: Any) -> None:
        connection.on_connect()
        connection.send_command("INFO", "server")
        run_id = _run_id(connection.read_response())
        if self.run_id not in ("", run_id):
            raise ServerChanged("Valkey was restarted or replaced")
        self.run_id = run_id

    def close(self) -> None:
        self.client.close()


class Nodes:
    """The nodes of the cluster, to be asked again and again who has what."""

    #: So many of them are asked: one alone may have been cut off from the others.
    ENOUGH = 3
    #: A cluster that has served may refuse for so long, seconds: while it replaces a master.
    PATIENCE = 5.0

    def __init__(self) -> None:
        self._known = [parse_address(node) for node in settings.VALKEY_CLUSTER]
        self._served_at = -math.inf

    def topology(self) -> Topology:
        """Raises ``redis.ConnectionError`` where no node answers, or none that takes part in a cluster that serves: who
        sees only those is cut off, and others may not be."""
        views, silent = self._ask()
        if not views:
            raise redis.ConnectionError("no node of the cluster answers")
        if time.monotonic() - self._served_at > self.PATIENCE:
            raise redis.ConnectionError("no node that answers is of a cluster that serves")
        found = Topology(views)
        # Who did not answer is asked last: it costs the longest wait.
        answered = [address for address, _ in views]
        others = found.nodes.union(self._known).difference(answered, silent)
        self._known = [*answered, *sorted(others), *silent]
        return found

    def _ask(self) -> tuple[list[tuple[Address, bytes]], list[Address]]:
        """What enough nodes say, one that serves among them if there is any; and who did not answer."""
        views: list[tuple[Address, bytes]] = []
        silent: list[Address] = []
        has_served = False
        for address in self._known:
            try:
                view, serves = _view(address)
            except redis.RedisError:
                silent.append(address)
                continue
            views.append((address, view))
            has_served |= serves
            if has_served and len(views) >= self.ENOUGH:
                break
        if has_served:
            self._served_at = time.monotonic()
        return views, silent


def _view(address: Address) -> tuple[bytes, bool]:
    """What a node says of all nodes, and whether it serves."""
    client = _client(address=address, socket_timeout=0.5, socket_connect_timeout=0.5)
    client.response_callbacks.clear()
    try:
        nodes, info = (bytes(client.execute_command(f"CLUSTER {what}")) for what in ("NODES", "INFO"))  # type: ignore[no-untyped-call]
    finally:
        client.close()
    return nodes, b"cluster_state:ok" in info


def _client(*, address: Address | None = None, **options: Any) -> redis.Redis:
    defaults: dict[str, Any] = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT}
    client: redis.Redis = redis.Redis.from_url(
        settings.REDIS_URL,
        protocol=2,
        decode_responses=False,
        retry=Retry(NoBackoff(), 0),
        **(defaults | options),
    )
    if address is not None:
        client.connection_pool.connection_kwargs |= address._asdict()
    return client


class _Cluster(RedisCluster):
    """redis-py's client of a cluster, whose own errors are no ``RedisError``."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except RedisClusterException as error:
            raise redis.ConnectionError(str(error)) from error


def _cluster(timeout: float) -> RedisCluster:
    url: dict[str, Any] = {**redis.connection.parse_url(settings.REDIS_URL)}  # type: ignore[no-untyped-call]
    tls = url.pop("connection_class", None) is redis.connection.SSLConnection
    for name in ("host", "port", "db"):
        url.pop(name, None)
    nodes = [ClusterNode(*parse_address(node)) for node in settings.VALKEY_CLUSTER]  # type: ignore[no-untyped-call]
    try:
        return _Cluster(
            startup_nodes=nodes,
            ssl=tls,
            protocol=2,
            decode_responses=False,
            require_full_coverage=False,
            socket_timeout=timeout,
            socket_connect_timeout=min(timeout, 0.5),
            retry=Retry(NoBackoff(), 0),
            **url,
        )
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


def _as_it_comes(reply: Any, **_: Any) -> Any:
    return reply


def _run_id(info: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line[7:].decode()
    raise redis.ResponseError("INFO names no run_id")
