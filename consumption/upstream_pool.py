"""Connections to upstreams, each to the address that was judged.

A name is resolved here, once, and connected to just that address: between judging and connecting nobody can make the
name point elsewhere. No redirect is followed, no proxy of the environment used.
"""

import asyncio
import errno
import logging
import select
import ssl
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from common.upstream_networks import addresses_of, may_connect
from consumption.upstream_connection import Connection, NoPlace, NotConnected

log = logging.getLogger(__name__)

#: A name is resolved again after this time.
RESOLVED_SECONDS = 30.0
#: A connection that rested longer is not used again, unless its upstream named another time. Common servers close
#: theirs after five seconds, and a request that crosses with the closing is lost, and may not be repeated.
REST_SECONDS = 4.0
#: After so long a rest it is looked at before it is used.
LOOK_SECONDS = 0.5
#: A connection is not kept for longer, so that a name that moved is followed.
LIFE_SECONDS = 300.0
#: For so long no connection is used twice after an upstream sent what nobody had asked for. The next time it might come
#: a moment later, when somebody else has asked, and be taken for the answer to that.
DISTRUST_SECONDS = 300.0
SWEEP_SECONDS = 0.05
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})


@dataclass(slots=True, eq=False)
class Host:
    """Where one base URL leads, and its connections that rest. The one that was used last is used first."""

    name: str
    port: int
    tls: ssl.SSLContext | None
    address: str = ""
    resolved_until: float = 0.0
    distrusted_until: float = 0.0
    resting: deque[tuple[float, Connection]] = field(default_factory=deque)
    resolving: "asyncio.Task[str] | None" = None

    def resolved(self, task: "asyncio.Task[str]") -> None:
        """Resolving has ended, maybe after everybody who waited had gone."""
        self.resolving = None
        if not task.cancelled():
            task.exception()


class _Returns:
    """What a connection is told of its pool: the host that it belongs to."""

    __slots__ = ("drop", "give_back", "made", "overheard")

    def __init__(self, pool: "UpstreamPool", host: Host) -> None:
        self.made = pool.made
        self.give_back = partial(pool.give_back, host)
        self.drop = pool.drop
        self.overheard = partial(pool.overheard, host)


class UpstreamPool:
    """All connections of one gateway. Use from one event loop only."""

    def __init__(self, *, max_connections: int) -> None:
        self._max_connections = max_connections
        self._open = self._dialling = 0
        self._hosts: dict[str, Host] = {}
        self._busy: set[Connection] = set()
        self._tls = ssl.create_default_context()
        self._sweeping: asyncio.Task[None] | None = None

    def resting(self, base_url: str) -> Connection | None:
        """A connection that is there already, or None. It goes back by ``Connection.close``."""
        host = self._hosts.get(base_url)
        if host is None or not host.resting:
            return None
        now = asyncio.get_running_loop().time()
        while host.resting:
            since, connection = host.resting.pop()
            if _is_usable(connection, now - since):
                self._busy.add(connection)
                return connection
            connection.abort()
        return None

    async def connect(self, base_url: str, *, seconds: float) -> Connection:
        """A new connection. Raises ``NotConnected``, or ``NoPlace`` where there are too many."""
        host = self._host(base_url)
        if self._open + self._dialling >= self._max_connections and not self._make_place():
            log.warning("all %d upstream connections are in use", self._max_connections)
            raise NoPlace
        self._dialling += 1
        try:
            async with asyncio.timeout(seconds):
                return await self._dial(host)
        except (OSError, TimeoutError) as error:
            if isinstance(error, OSError) and error.errno in _OUT_OF_FILES:
                log.warning("no more open files for upstream connections")
                raise NoPlace from error
            raise NotConnected from error
        finally:
            self._dialling -= 1

    def _make_place(self) -> bool:
        """Cut a connection that rests, whoever it belongs to; False where none does."""
        for host in self._hosts.values():
            while host.resting:
                connection = host.resting.popleft()[1]
                if connection.open:
                    connection.abort()
                    return True
        return False

    async def _dial(self, host: Host) -> Connection:
        loop = asyncio.get_running_loop()
        if self._sweeping is None:
            self._sweeping = loop.create_task(self._sweep())
        address = host.address if host.resolved_until > loop.time() else await self._resolve(host)
        _, connection = await loop.create_connection(
            lambda: Connection(loop, _Returns(self, host)),
            address,
            host.port,
            ssl=host.tls,
            server_hostname=host.name if host.tls else None,
        )
        return connection

    def made(self, connection: Connection) -> None:
        """A new connection is there, and busy."""
        self._open += 1
        self._busy.add(connection)

    def give_back(self, host: Host, connection: Connection) -> None:
        """An exchange has ended well: the connection rests."""
        self._busy.discard(connection)
        now = asyncio.get_running_loop().time()
        if now - connection.made_at < LIFE_SECONDS and now >= host.distrusted_until:
            host.resting.append((now, connection))
        else:
            connection.abort()

    def overheard(self, host: Host) -> None:
        """An upstream sent what nobody had asked for."""
        log.warning("an upstream sent more than it was asked for: its connections are used once")
        host.distrusted_until = asyncio.get_running_loop().time() + DISTRUST_SECONDS
        while host.resting:
            host.resting.popleft()[1].abort()

    def drop(self, connection: Connection) -> None:
        """A connection is gone."""
        self._open -= 1
        self._busy.discard(connection)

    async def close(self) -> None:
        """Cut all connections."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._busy):
            connection.abort()
        for host in self._hosts.values():
            for _, connection in host.resting:
                connection.abort()

    def _host(self, base_url: str) -> Host:
        host = self._hosts.get(base_url)
        if host is None:
            parts = urlsplit(base_url)
            tls = self._tls if parts.scheme == "https" else None
            host = Host(parts.hostname or "", parts.port or (443 if tls else 80), tls)
            self._hosts[base_url] = host
        return host

    async def _resolve(self, host: Host) -> str:
        """The judged address; however many ask at once, the name is resolved once."""
        if host.resolving is None:
            host.resolving = asyncio.get_running_loop().create_task(_judged_address(host.name, host.port))
            host.resolving.add_done_callback(host.resolved)
        host.address = await asyncio.shield(host.resolving)
        host.resolved_until = asyncio.get_running_loop().time() + RESOLVED_SECONDS
        return host.address

    async def _sweep(self) -> None:
        """One look at all deadlines every 50 ms instead of a timer a call; connections that rested too long go."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = loop.time()
            for connection in [each for each in self._busy if each.due <= now]:
                connection.judge(now)
            for host in self._hosts.values():
                while host.resting and not _is_usable(host.resting[0][1], now - host.resting[0][0]):
                    host.resting.popleft()[1].abort()


def _is_usable(connection: Connection, rested: float) -> bool:
    told = connection.keep_alive_seconds
    if not connection.open or rested >= (REST_SECONDS if told is None else told):
        return False
    return rested < LOOK_SECONDS or not _has_news(connection.descriptor)


def _has_news(descriptor: int) -> bool:
    """Whether a resting socket has anything to read: its end, or what nobody asked for."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def _judged_address(name: str, port: int) -> str:
    """The first address that may be connected to. Raises ``NotConnected`` where there is none."""
    try:
        found = await asyncio.get_running_loop().run_in_executor(None, addresses_of, name, port)
    except (OSError, UnicodeError) as error:
        raise NotConnected from error
    address = next((each for each in found if may_connect(each)), None)
    if address is None:
        log.warning("an upstream resolves to addresses that may not be connected to")
        raise NotConnected
    return address
