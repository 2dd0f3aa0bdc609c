"""A network that misbehaves on demand: a TCP proxy with latency, little bandwidth, stalls, cuts and resets.

It runs in a thread of its own, so it goes on while a test blocks. Changes apply to open connections too.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

T = TypeVar("T")

CHUNK = 64 * 1024
QUEUED_CHUNKS = 64
# Linger on, for no time: closing sends RST instead of FIN, and what was not sent is lost.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction(Enum):
    TO_SERVER = "to server"
    TO_CLIENT = "to client"


BOTH = (Direction.TO_SERVER, Direction.TO_CLIENT)


@dataclass
class Link:
    """One direction of the network, shared by all connections. `bandwidth` is in bytes a second."""

    latency: float = 0.0
    bandwidth: float | None = None
    awaited: bytes | None = None
    flowing: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.flowing.set()


@dataclass(eq=False)
class Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def close(self, *, reset: bool) -> None:
        for writer in (self.client, self.server):
            if reset:
                abort(writer)
            else:
                writer.close()
        for task in self.tasks:
            task.cancel()


def abort(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):  # it was closed a moment ago
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    writer.transport.abort()


class Proxy:
    """Listens on `port` and passes everything on to 127.0.0.1:`target_port`.

    Connections from the addresses `apart` have a network of their own each, everybody else shares one. With `tls` it is
    what ends TLS in front of the server, and `accepted` are those that believed its certificate.
    """

    def __init__(
        self, target_port: int, *, apart: Iterable[str] = (), tls: ssl.SSLContext | None = None
    ) -> None:
        self.target_port = target_port
        self.tls = tls
        self.port = 0
        self.accepted = 0
        self.links = {direction: Link() for direction in Direction}
        self._apart = {source: {direction: Link() for direction in Direction} for source in apart}
        self._connections: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: asyncio.Server | None = None
        self._held = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def url(self, target: str) -> str:
        """`target`, reached through this proxy."""
        parts = urlsplit(target)
        account = parts.netloc.rpartition("@")[0]
        place = f"127.0.0.1:{self.port}"
        return urlunsplit(parts._replace(netloc=f"{account}@{place}" if account else place))

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def delay(self, seconds: float, *directions: Direction) -> None:
        """Every byte arrives `seconds` late; throughput is not touched."""
        for direction in directions or BOTH:
            self.links[direction].latency = seconds

    def limit(self, bytes_per_second: float | None, *directions: Direction) -> None:
        for direction in directions or BOTH:
            self.links[direction].bandwidth = bytes_per_second

    def pause(self, *directions: Direction, source: str = "") -> None:
        """Connections stay open and nothing gets through: a network that lost its route."""
        for direction in directions or BOTH:
            self._loop.call_soon_threadsafe(self._links_of(source)[direction].flowing.clear)
        self._run(asyncio.sleep(0))  # it is so now

    def resume(self, *directions: Direction, source: str = "") -> None:
        """What was held back arrives now."""
        for direction in directions or BOTH:
            self._loop.call_soon_threadsafe(self._links_of(source)[direction].flowing.set)

    def hold_answer_to(self, words: bytes) -> threading.Event:
        """As soon as these words pass to the server, nothing comes back until ``resume``. The event says when."""
        self._held.clear()
        self.links[Direction.TO_SERVER].awaited = words
        return self._held

    def cut(self) -> None:
        """End all connections in order (FIN)."""
        self._run(self._close_all(reset=False))

    def reset(self) -> None:
        """End all connections with RST."""
        self._run(self._close_all(reset=True))

    def refuse(self) -> None:
        """New connections are refused; open ones stay."""
        self._run(self._stop_listening())

    def accept(self) -> None:
        """Take new connections again, on the same port."""
        self._run(self._listen())

    def _links_of(self, source: str) -> dict[Direction, Link]:
        return self._apart.get(source, self.links)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.tls)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _close_all(self, *, reset: bool) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.close(reset=reset)
        tasks = [task for connection in connections for task in connection.tasks]
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a turn of the loop, in which the sockets are really closed

    async def _serve(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            abort(to_client)
            return
        self.accepted += 1
        connection = Connection(to_client, to_server)
        links = self._links_of(to_client.get_extra_info("peername")[0])
        connection.tasks = [
            asyncio.create_task(self._pass_on(from_client, to_server, links[Direction.TO_SERVER])),
            asyncio.create_task(self._pass_on(from_server, to_client, links[Direction.TO_CLIENT])),
        ]
        self._connections.add(connection)
        await asyncio.gather(*connection.tasks, return_exceptions=True)
        self._connections.discard(connection)
        connection.close(reset=False)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, link: Link) -> None:
        """Reading and writing are apart, so that a late byte does not delay the reading of the next."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        reading = asyncio.create_task(self._read(source, link, queue))
        try:
            with contextlib.suppress(OSError):
                await self._write(sink, link, queue)
        finally:
            reading.cancel()

    async def _read(
        self, source: asyncio.StreamReader, link: Link, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = await source.read(CHUNK)
            except OSError:
                chunk = b""
            await queue.put((time.monotonic() + link.latency, chunk))

    async def _write(
        self, sink: asyncio.StreamWriter, link: Link, queue: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        while True:
            due, chunk = await queue.get()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await link.flowing.wait()
            if not chunk:
                break
            if link.awaited is not None and link.awaited in chunk:
                link.awaited = None
                self.links[Direction.TO_CLIENT].flowing.clear()
                self._held.set()
            for piece in pieces(chunk, link.bandwidth):
                sink.write(piece)
                await sink.drain()
                if link.bandwidth is not None:
                    await asyncio.sleep(len(piece) / link.bandwidth)
        if sink.can_write_eof():  # TLS knows no half
            sink.write_eof()


def pieces(chunk: bytes, bandwidth: float | None) -> list[bytes]:
    """A tenth of a second's worth each, so that a change of bandwidth shows soon."""
    size = len(chunk) if bandwidth is None else max(1, int(bandwidth / 10))
    return [chunk[start : start + size] for start in range(0, len(chunk), size)]
