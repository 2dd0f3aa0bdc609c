"""One connection to Valkey, shared by every call of a gateway, with nobody waiting for anybody's turn.

Commands of one tick of the event loop leave in one write; answers come back in order. redis-py makes the
connection (URL, AUTH, TLS, SELECT); from then on its transport is used directly, which costs less than a tenth of its
own client's CPU. That is why redis-py is pinned and this file has tests with a stalled, killed and restarted server.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import hiredis
import msgspec
from redis.asyncio import Connection
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from metering.shards import SHARDS
from metering.topology import Address

log = logging.getLogger(__name__)

Argument = str | bytes | int | float

#: Turns of the event loop from bytes in the socket to an answer: the socket, and one for whatever lies before it.
READING_TURNS = 2
#: How many sweeps go on once nothing is waited for.
SWEEPS_AFTERWARDS = 10
#: So many calls in a row that heard nothing, and nobody waits for the server any more until it is heard again.
MOST_MISSED = 5


class LineError(Exception):
    """A call that brought no answer."""


class NotSent(LineError):
    """The command never left: it has certainly not run."""


class OutcomeUnknown(LineError):
    """The command left and no answer came in time: it may have run, or may still run."""


def reason_of(error: BaseException) -> str:
    """What kept a connection from being made, by name: redis-py's own error is the same for all, and hides it."""
    hidden = error.__context__ if isinstance(error, RedisError) else None
    return type(hidden or error).__name__


class Waiting(msgspec.Struct, gc=False):
    """A call that left. ``counts``: what it did is lost where its answer alone is believed (``ReplicatedLine``)."""

    future: asyncio.Future[Any]
    deadline: float
    on_late: Callable[[Any], None] | None = None
    counts: bool = False


class Lines(Protocol):
    """One server or the masters of a cluster. ``by_shard``: the line that each shard is reached by, now."""

    by_shard: list["Line"]

    @property
    def is_open(self) -> bool: ...

    def call(self, command: Sequence[Argument], *, timeout: float | None = None) -> Awaitable[Any]:
        """``Line.call``, to whoever has the command's first key."""
        ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class _Answers(asyncio.Protocol):
    """What a server says, taken apart as it comes. ``ended`` gets what ended the connection."""

    def __init__(self, line: "Line", ended: "asyncio.Future[Exception]") -> None:
        self._line = line
        self._ended = ended
        self._parser = hiredis.Reader(notEnoughData=Ellipsis)

    def data_received(self, data: bytes) -> None:
        take, deliver = self._line.hear()
        gets = self._parser.gets
        try:
            self._parser.feed(data)
            while (answer := gets()) is not Ellipsis:
                deliver(take(), answer)
        except hiredis.HiredisError as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or ConnectionResetError("Valkey closed the connection"))

    def _end(self, error: Exception) -> None:
        if not self._ended.done():
            self._ended.set_result(error)


class Line:
    """A pipelined connection that reconnects by itself. Use from one event loop only.

    ``on_connect`` runs after every connect, before any call is let through; the line counts as down until it returns.
    It counts as down, too, while the server is silent: what was sent and not answered is the probe, and any byte that
    comes opens it again; after 5 s of silence it is connected anew.
    ``address``: host and port instead of the URL's.
    """

    def __init__(
        self,
        url: str,
        *,
        on_connect: Callable[["Line"], Awaitable[None]],
        timeout: float = 0.1,
        address: Address | None = None,
    ) -> None:
        self._options: dict[str, Any] = {**parse_url(url), **(address._asdict() if address else {})}
        self._on_connect = on_connect
        self._timeout = timeout
        self._waiting: deque[Waiting] = deque()
        self._out: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None
        self._open = False
        self._ready = False
        self._missed = 0
        self._loop: asyncio.AbstractEventLoop
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = asyncio.Event()
        self._asked = asyncio.Event()
        self._resting = False
        self.by_shard = [self] * SHARDS
        #: What ``on_connect`` learnt of the server: its ``run_id``, by how much its clock is ahead, and what in its
        #: settings could lose usage.
        self.life = ""
        self.clock_offset_ms = 0
        self.unsafe = ""

    async def start(self) -> None:
        """Begin to connect, and stay connected until ``stop``."""
        loop = self._loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep_connected()), loop.create_task(self._expire())]

    async def stop(self) -> None:
        """Close the connection. Calls still waiting end as ``OutcomeUnknown``."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_open(self) -> bool:
        """Whether calls are being let through."""
        return self._open

    async def wait_open(self, seconds: float) -> bool:
        """Wait until calls are let through; False where that took too long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), seconds)
        return self._open

    def call(
        self,
        command: bytes | Sequence[Argument],
        *,
        timeout: float | None = None,
        on_late: Callable[[Any], None] | None = None,
    ) -> asyncio.Future[Any]:
        """Send one command (its arguments, or bytes as they go out); the future gives its answer.

        Raises ``NotSent`` at once where the line is down. The future raises ``OutcomeUnknown`` after ``timeout``
        seconds or when the connection breaks, and ``hiredis.ReplyError`` where the server refuses.
        ``on_late`` gets an answer that comes after the timeout.
        """
        if not self._open:
            raise NotSent("no connection to Valkey")
        return self._send(command, timeout, on_late)

    def setup_call(self, command: Sequence[Argument], *, timeout: float = 2.0) -> asyncio.Future[Any]:
        """``call`` for ``on_connect``, while the line is not yet open for others."""
        if self._transport is None:
            raise NotSent("no connection to Valkey")
        return self._send(command, timeout, None)

    def _send(
        self,
        command: bytes | Sequence[Argument],
        timeout: float | None,
        on_late: Callable[[Any], None] | None,
    ) -> asyncio.Future[Any]:
        loop = self._loop
        future = loop.create_future()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        # A call that times out keeps its place: its answer must not be taken for the next one's.
        self._waiting.append(Waiting(future, deadline, on_late))
        if not self._out:
            loop.call_soon(self._flush)
            if self._resting:
                self._asked.set()
        if isinstance(command, bytes):
            self._out.append(command)
        else:
            self._out.append(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]  # its stub takes one item
        return future

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def _keep_connected(self) -> None:
        pause = 0.05
        while True:
            connection = self._new_connection()
            try:
                await connection.connect()  # type: ignore[no-untyped-call]  # it has no types
                await self._serve(connection)
                pause = 0.05
            except (OSError, RedisError, LineError, hiredis.HiredisError, TimeoutError) as error:
                log.warning("Valkey connection: %s", reason_of(error))
                pause = min(1.0, pause * 2)
            except Exception:
                # Whatever else setting up came upon: the line must not be gone for good, and nobody told.
                log.exception("Valkey connection")
                pause = 1.0
            finally:
                self._break()
                with contextlib.suppress(OSError, RedisError):
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(pause)

    def _new_connection(self) -> Connection:
        options: dict[str, Any] = dict(self._options)
        kind = options.pop("connection_class", Connection)
        if not issubclass(kind, Connection | SSLConnection):
            raise ValueError("REDIS_URL must begin with redis:// or rediss://")
        options.update(
            socket_connect_timeout=2, socket_timeout=2, retry=Retry(NoBackoff(), 0), health_check_interval=0
        )
        connection: Connection = kind(**options)
        return connection

    async def _serve(self, connection: Connection) -> None:
        if connection._writer is None:
            raise ConnectionResetError("Valkey closed the connection")
        ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._transport = connection._writer.transport
        self._transport.set_protocol(_Answers(self, ended))
        try:
            await self._on_connect(self)
            self._ready = True
            self._heard()
            raise await ended
        finally:
            self._ready = False
            self._shut()

    def hear(self) -> tuple[Callable[[], Waiting], Callable[[Waiting, Any], None]]:
        """Something has come of the server. Gives what takes the call that has waited longest, and what answers it."""
        if self._missed:
            self._heard()
        return self._waiting.popleft, self._deliver

    def _heard(self) -> None:
        self._missed = 0
        if self._ready:
            self._open = True
            self._connected.set()

    def _shut(self) -> None:
        self._open = False
        self._connected.clear()

    def _deliver(self, waiting: Waiting, answer: Any) -> None:
        if waiting.future.done():
            if waiting.on_late is not None:
                waiting.on_late(answer)
        elif isinstance(answer, hiredis.ReplyError):
            waiting.future.set_exception(answer)
        else:
            waiting.future.set_result(answer)

    async def _expire(self) -> None:
        """One sweep every 10 ms instead of a timer a call; the connection is given up after 5 s of silence."""
        loop = asyncio.get_running_loop()
        swept = 0
        while True:
            await asyncio.sleep(0.01)
            swept = 0 if self._waiting else swept + 1
            if swept > SWEEPS_AFTERWARDS:
                await self._rest()
                swept = 0
            now = loop.time()
            late = self._late(now)
            if late:
                # What came while this process was busy with something else is read first: it was not late.
                for _ in range(READING_TURNS):
                    await asyncio.sleep(0)
            for waiting in late:
                if not waiting.future.done():
                    waiting.future.set_exception(OutcomeUnknown("Valkey did not answer in time"))
                    self._missed += 1
            if self._open and self._missed >= MOST_MISSED:
                log.warning("Valkey is silent")
                self._shut()
            if self._waiting and self._waiting[0].deadline + 5 < now and self._transport is not None:
                self._transport.abort()

    async def _rest(self) -> None:
        """Until something is asked: a process that nobody calls has nothing to wake up for."""
        self._resting = True
        try:
            await self._asked.wait()
        finally:
            self._resting = False
            self._asked.clear()

    def _late(self, now: float) -> list[Waiting]:
        return [each for each in self._waiting if each.deadline <= now and not each.future.done()]

    def _break(self) -> None:
        self._shut()
        self._transport = None
        self._missed = 0
        self._out = []
        waiting, self._waiting = self._waiting, deque()
        for each in waiting:
            if not each.future.done():
                each.future.set_exception(OutcomeUnknown("the connection to Valkey broke"))
