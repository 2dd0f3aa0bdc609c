"""One HTTP/1.1 connection to an upstream, for one exchange at a time: bytes out, a bounded answer in.

llhttp reads what comes; nothing of it is trusted. What an upstream may cost in time and memory is in ``Patience`` and
in the caps below; who waits is told by one of three failures, which say whether the work can have been done.
"""

import asyncio
from typing import Protocol

import httptools
import msgspec

#: Status line and headers of one answer, trailers too.
MOST_HEAD_BYTES = 64 * 1024
#: Of a stream, what may wait for a caller who reads slowly; beyond it the upstream is not read.
MOST_WAITING_BYTES = 256 * 1024
#: The minimum rate is judged over a window of so many seconds.
RATE_WINDOW_SECONDS = 10.0

#: What is read of one connection before the others have their turn. Two hundred streams at full speed would else keep
#: everybody waiting for the tenths of a second that it takes to pass on a quarter of a megabyte of each.
MOST_AT_ONCE = 16 * 1024

_arrived = bytearray(MOST_AT_ONCE)
_view = memoryview(_arrived)
_UNKNOWN_LENGTH = -1
_READ_HEADERS = frozenset(
    {b"content-length", b"transfer-encoding", b"retry-after", b"content-encoding", b"keep-alive"}
)


class NotConnected(Exception):
    """There was no connection, so nothing was sent: another try costs nobody anything."""


class NoPlace(Exception):
    """This gateway has as many connections as it may have: nothing was sent, and no upstream is to blame."""


class Broken(Exception):
    """Cut off, not HTTP, or larger than allowed. The request had been sent: the work may have been done."""


class TooSlow(Exception):
    """One of the deadlines has passed. The request had been sent. ``first_byte``: nothing had come yet."""

    def __init__(self, *, first_byte: bool) -> None:
        super().__init__("too slow")
        self.first_byte = first_byte


class Patience(msgspec.Struct, frozen=True):
    """How long an answer may take. ``until``: the total, on the event loop's clock. The rest in seconds, None is off.

    ``first_byte``: until the status line. ``idle``: the longest silence in a body. ``least_rate``: bytes a second.
    """

    until: float
    connect: float = 5.0
    first_byte: float | None = None
    idle: float | None = None
    least_rate: int | None = None


class Owner(Protocol):
    """The pool that a connection goes back to."""

    def made(self, connection: "Connection") -> None:
        """The connection is there."""

    def give_back(self, connection: "Connection") -> None:
        """The exchange has ended and another may begin."""

    def drop(self, connection: "Connection") -> None:
        """The connection is gone."""

    def overheard(self) -> None:
        """The upstream sent what nobody had asked for."""


class Connection(asyncio.BufferedProtocol):
    """``send`` a request and wait for the answer; then ``read`` its body, or take it whole. Always ``close`` it."""

    __slots__ = (
        "_body", "_complete", "_failure", "_fed", "_fed_before", "_interim", "_last", "_length", "_loop",
        "_most_bytes", "_owner", "_parser", "_patience", "_paused", "_reusable", "_transport", "_waiter",
        "_waiting_bytes", "_whole", "_window_began", "descriptor", "due", "encoded", "keep_alive_seconds", "made_at",
        "open", "retry_after", "status",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        self._loop = loop
        self._owner = owner
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._patience = Patience(until=float("inf"))
        self._last = self._window_began = 0.0
        self.open = False
        #: How long the upstream lets it rest, by its own word.
        self.keep_alive_seconds: float | None = None
        self._begin(whole=True, most_bytes=0)

    def _begin(self, *, whole: bool, most_bytes: int) -> None:
        self._whole = whole
        self._most_bytes = most_bytes
        self._body: list[bytes] = []
        self._waiting_bytes = self._fed = 0
        self._length = _UNKNOWN_LENGTH
        self._complete = self._interim = self._reusable = False
        self._failure: Exception | None = None
        self._fed_before = 0
        self.due = float("inf")
        self.status = 0
        self.retry_after = b""
        self.encoded = False

    # -- what callers do -------------------------------------------------------------------------------------------

    async def send(self, request: bytes, patience: Patience, *, whole: bool, most_bytes: int) -> None:
        """Send a request and wait for its answer: all of it (``whole``), or its head.

        Raises ``Broken`` or ``TooSlow``.
        """
        if self._transport is None or not self.open:
            raise NotConnected
        self._begin(whole=whole, most_bytes=most_bytes)
        self._patience = patience
        self._last = self._window_began = self._loop.time()
        self.due = self._next_due(patience)
        self._waiter = self._loop.create_future()
        self._transport.write(request)
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._failure is not None and (whole or not self.status):
            raise self._failure

    async def read(self) -> bytes:
        """What of a stream's body has come since the last time; empty at its end. Raises as ``send`` does."""
        if not self._body and not self._complete and self._failure is None:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if not self._body and self._failure is not None:
            raise self._failure
        data = b"".join(self._body)
        self._body.clear()
        self._waiting_bytes = 0
        if self._paused:
            self._resume()
        return data

    def _resume(self) -> None:
        self._paused = False
        self._last = self._window_began = self._loop.time()
        self._fed_before = self._fed
        if self._transport is not None:
            self._transport.resume_reading()

    def whole(self) -> bytes:
        """The body of an answer that was sent for as a whole."""
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def close(self) -> None:
        """The exchange is over. What has not come yet is not waited for: it costs the connection."""
        if self._complete and self._reusable and self.open and not self._paused:
            self._owner.give_back(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the connection."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()

    def judge(self, now: float) -> None:
        """Called by the owner's sweep when ``due`` has come: end the exchange, or say when to look again."""
        patience = self._patience
        if now >= patience.until or (self._is_silent(now, patience) and not self._paused):
            self._fail(TooSlow(first_byte=self.status == 0))
        elif self._is_slow(now, patience) and not self._paused:
            self._fail(TooSlow(first_byte=False))
        else:
            self.due = self._next_due(patience)

    def _is_silent(self, now: float, patience: Patience) -> bool:
        longest = patience.idle if self.status else patience.first_byte
        return longest is not None and now - self._last >= longest

    def _is_slow(self, now: float, patience: Patience) -> bool:
        """Whether the window that ends now brought less than the least rate; begins the next window."""
        if patience.least_rate is None or now - self._window_began < RATE_WINDOW_SECONDS:
            return False
        brought, seconds = self._fed - self._fed_before, now - self._window_began
        self._window_began, self._fed_before = now, self._fed
        return self.status != 0 and brought < patience.least_rate * seconds

    def _next_due(self, patience: Patience) -> float:
        # A caller who does not read is not the upstream's fault: then only the total goes on.
        due = patience.until
        longest = patience.idle if self.status else patience.first_byte
        if longest is not None:
            due = min(due, (self._loop.time() if self._paused else self._last) + longest)
        if patience.least_rate is not None:
            due = min(due, self._window_began + RATE_WINDOW_SECONDS)
        return due

    # -- what the transport says -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's
        self.descriptor = transport.get_extra_info("socket").fileno()
        self.made_at = self._loop.time()
        self.open = True
        self._owner.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._transport = None
        if self.status and self._length == _UNKNOWN_LENGTH and exc is None and self._failure is None:
            self._end()  # a body without a length ends with its connection
        self._fail(Broken("closed"))
        self._owner.drop(self)

    def get_buffer(self, sizehint: int) -> bytearray:
        """Where the transport puts what it reads: one place for all, since it is emptied before the next reads."""
        return _arrived

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes of the answer."""
        data = bytes(_view[:nbytes])
        if self._complete:
            self._owner.overheard()
        if self._complete or self._failure is not None:
            self.abort()  # nobody asked for this
            return
        self._fed += nbytes
        self._last = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(Broken("not HTTP"))
            self.abort()
            return
        if self.status == 0 and self._fed > MOST_HEAD_BYTES:
            self._fail(Broken("an endless head"))
        elif self._fed > self._most_bytes:
            self._fail(Broken("too large"))
        elif self._body and not self._whole:
            self._wake()
            if self._waiting_bytes > MOST_WAITING_BYTES and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()

    # -- what llhttp says ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            self._owner.overheard()
            raise Broken("a second answer to one question")
        # What an interim answer said is not said of the one that follows.
        self._length, self.retry_after, self.encoded = _UNKNOWN_LENGTH, b"", False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name not in _READ_HEADERS:
            return
        if name == b"content-length" or name == b"transfer-encoding":
            self._length = 0
        elif name == b"retry-after":
            self.retry_after = value
        elif name == b"content-encoding":
            self.encoded = value.lower() not in {b"", b"identity"}
        elif name == b"keep-alive":
            self.keep_alive_seconds = _timeout_of(value)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        self.status = status
        self._reusable = self._parser.should_keep_alive()
        self.due = self._next_due(self._patience)
        if not self._whole:
            self._wake()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)
        self._waiting_bytes += len(data)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            return
        self._end()

    def _end(self) -> None:
        if self._failure is None:
            self._complete = True
            self.due = float("inf")
            self._wake()

    def _fail(self, failure: Exception) -> None:
        if not self._complete and self._failure is None:
            self._failure = failure
            self._wake()
            self.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _timeout_of(keep_alive: bytes) -> float | None:
    """Seconds in ``Keep-Alive: timeout=5, max=100``."""
    for part in keep_alive.split(b","):
        name, _, value = part.partition(b"=")
        if name.strip().lower() == b"timeout" and value.strip().isdigit():
            return min(float(value), 60.0)
    return None
