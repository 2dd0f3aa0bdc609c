"""The fast lane: paid calls straight from the socket, past ASGI and the framework.

A subclass of uvicorn's own protocol. It keeps uvicorn's connections, pipelining, keep-alive and shutdown, and leaves
every other path to the application; a paid call costs a third of what it costs through ASGI (``docs/performance.md``).
The same calls through Django are ``consumption.views``; the contract tests run over both.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from common.errors import Problem, TooLarge
from common.networks import client_address
from consumption import metrics, runtime
from consumption.answers import Headers, refusal
from consumption.call import Call
from consumption.dialects.base import Answer, Dialect
from consumption.relay import CLIENT_GONE, Stream
from consumption.transport import CONSUME, DIALECTS, MARKETPLACE, key_of
from keys.in_urls import holds_key

log = logging.getLogger(__name__)

#: A request that has not come whole after this time is given up.
REQUEST_SECONDS = 30.0
#: How long a client may leave what was sent unread.
WRITE_SECONDS = 60.0
#: Of a request's line and headers.
MOST_HEAD_BYTES = 64 * 1024
#: At shutdown, what is already on its way over an idle connection is still answered.
LAST_REQUEST_SECONDS = 0.5

_PATHS: dict[bytes, Dialect] = {path.encode(): dialect for path, dialect in DIALECTS.items()}
_CONSUME = CONSUME.encode()


def _holds_key(url: bytes) -> bool:
    """Whether the application has to say that a key is no part of a URL. Most calls are done with at the first line."""
    if b"?" not in url and b"mk_" not in url and b"%" not in url:
        return False
    path, _, query = url.decode("latin-1").partition("?")
    return holds_key(unquote(path), query)


class MethodNotAllowed(Problem):
    code, status, title = "method_not_allowed", 405, "The method is not allowed here"


class ClientSlow(Problem):
    code, status, title = "request_timeout", 408, "The request did not come in time"


class LaneProtocol(HttpToolsProtocol):
    """One connection of a client."""

    cycle: Any  # uvicorn's own, or a PaidExchange

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        #: Since when the connection waits for its client: for a request, or for the rest of one.
        self._waits_since = self.loop.time()
        self._incomplete = self._leaving = self._in_head = self._closing = False
        self._head_bytes = 0
        #: The paid call whose answer is under way; others may wait behind it.
        self.serving: PaidExchange | None = None

    # -- what the transport says -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._look_later(REQUEST_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        serving = self.serving
        if serving is not None and serving is not self.cycle:
            # uvicorn tells the last request alone.
            serving.disconnected = True
            serving.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        waited = self._incomplete
        super().data_received(data)
        if self._incomplete and not waited:
            self._waits_since = self.loop.time()
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self.send_400_response("The head of the request is too large.")

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        if isinstance(cycle, PaidExchange) and not cycle.more_body and not cycle.response_complete:
            # What followed a whole call is not HTTP. The call is served; its answer is the last.
            cycle.keep_alive = self._incomplete = self._in_head = False
            return
        super().send_400_response(msg)

    # One timer a connection that looks now and then, where uvicorn sets and ends one for every request.

    def _look_later(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            self._see_closing()
            return
        cycle = self.cycle
        resting = cycle is None or cycle.response_complete
        # A call that is being served waits for nobody, whatever else has come of its client.
        waits = resting or (cycle.more_body and not self.pipeline)
        longest = REQUEST_SECONDS if self._incomplete or cycle is None else self.timeout_keep_alive
        left = self._waits_since + longest - self.loop.time() if waits else longest
        if left > 0:
            self._look_later(min(left, REQUEST_SECONDS))
            return
        if isinstance(cycle, PaidExchange) and not resting:
            cycle.refuse(ClientSlow())
        else:
            self.transport.close()
        self._look_later(WRITE_SECONDS)

    def _see_closing(self) -> None:
        """What was left to send when the connection began to close has this time to be read."""
        if self._closing:
            self.transport.abort()
        else:
            self._closing = True
            self._look_later(WRITE_SECONDS)

    def on_response_complete(self) -> None:
        self._waits_since = self.loop.time()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())

    # -- what llhttp says ------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        # What ASGI wants of a request is made only where it goes there.
        self._incomplete = self._in_head = True
        self._head_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        self._in_head = False
        path = self.url.partition(b"?")[0]
        dialect = _PATHS.get(path) or (MARKETPLACE if path.startswith(_CONSUME) else None)
        running = runtime.current()
        if dialect is None or running is None or not running.lane or _holds_key(self.url):
            self._leave_to_the_application()
            return
        before = self.cycle
        exchange = PaidExchange(self, running, dialect, path)
        self.headers = []  # what comes as a trailer is no header of the request
        self.cycle = exchange
        if before is None or before.response_complete:
            exchange.may_begin = True
            exchange.ask_for_body()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft(cast(Any, (exchange, None)))

    def _leave_to_the_application(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()
        self.headers = []

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if isinstance(cycle, PaidExchange):
            cycle.take(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._incomplete = False
        cycle = self.cycle
        if isinstance(cycle, PaidExchange):
            cycle.more_body = False
            cycle.begin()
        else:
            super().on_message_complete()

    # -- what uvicorn asks -----------------------------------------------------------------------------------------

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """A request that had waited behind another on this connection has its turn."""
        if isinstance(cycle, PaidExchange):
            cycle.may_begin = True
            cycle.ask_for_body()
            cycle.begin()
        else:
            super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._leaving = True
            self.loop.call_later(LAST_REQUEST_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def keeps_alive(self) -> bool:
        """Whether the connection stays open after the request that was just read."""
        return not self._leaving and bool(self.parser.should_keep_alive())


class PaidExchange:
    """One paid call on its connection: stands where uvicorn keeps its own request-response cycle."""

    __slots__ = (
        "_address", "_began", "_body", "_chunked", "_dialect", "_expects", "_headers", "_method", "_path", "_protocol",
        "_refused", "_running", "_size", "_streaming", "_task", "disconnected", "keep_alive", "may_begin", "more_body",
        "response_complete",
    )  # fmt: skip

    def __init__(
        self, protocol: LaneProtocol, running: runtime.Runtime, dialect: Dialect, path: bytes
    ) -> None:
        parser = protocol.parser
        self._protocol = protocol
        self._running = running
        self._dialect = dialect
        self._path = path
        self._method: bytes = parser.get_method()
        self._headers = protocol.headers
        self._address = protocol.client[0] if protocol.client else ""
        self._body: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        self._refused: Problem | None = None
        self._expects = protocol.expect_100_continue
        self._streaming = False
        self._began = time.perf_counter()
        #: HTTP/1.0 knows no chunks: there a stream ends with its connection.
        self._chunked = parser.get_http_version() == "1.1"
        # After an Upgrade, which is not taken up, the parser reads no further.
        self.keep_alive = self._chunked and protocol.keeps_alive() and not parser.should_upgrade()
        self.may_begin = False
        self.more_body = True
        self.disconnected = self.response_complete = False

    @property
    def message_event(self) -> "PaidExchange":
        """What uvicorn ``set``s when the client has gone: here that is this exchange itself."""
        return self

    def set(self) -> None:
        """The client has gone. A stream ends; a whole answer is owed all the same, and is charged."""
        if self._streaming and self._task is not None:
            self._task.cancel(CLIENT_GONE)

    def take(self, data: bytes) -> None:
        """A piece of the body."""
        self._size += len(data)
        if self._size <= self._running.gateway.most_body_bytes:
            self._body.append(data)
        elif not self.response_complete and self._refused is None:
            self.refuse(TooLarge())

    def ask_for_body(self) -> None:
        """Say that a body may come, to a client that waits for that."""
        if self._expects and self.more_body:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def refuse(self, problem: Problem) -> None:
        """Answer before the request has come whole; its rest is nobody's, so the connection ends too."""
        self.keep_alive = False
        self._refused = problem
        self.begin()

    def begin(self) -> None:
        """Serve the call once it is whole, and the answers before it on its connection are out."""
        protocol = self._protocol
        if (
            not self.may_begin
            or self.response_complete
            or self.disconnected
            or protocol.transport.is_closing()
        ):
            return
        if self._refused is not None:
            self._send(refusal(self._call(), self._refused))
        elif not self.more_body:
            protocol.serving = self
            self._task = protocol.loop.create_task(self._serve())
            protocol.tasks.add(self._task)

    async def _serve(self) -> None:
        # A call begins when it is whole. A slow client's upload is no latency of the service, and admission refuses
        # ids that are seconds old.
        call = self._call()
        try:
            if self._protocol.flow.write_paused:
                await self._kept_up()  # who does not read its answers gets no more of them
            if self._method != b"POST":
                self._send(refusal(call, MethodNotAllowed()))
                return
            answer = await self._running.gateway.answer(call)
            if isinstance(answer, Stream):
                await self._stream(answer)
            else:
                self._send(answer)
        except BaseException:
            if not self.response_complete:
                self._protocol.transport.abort()
            raise
        finally:
            self._protocol.tasks.discard(cast(Any, self._task))

    def _call(self) -> Call:
        """What came in. A header that comes twice is one list, as Django has it."""
        authorization = x_api_key = idempotency_key = None
        for name, value in self._headers:
            if name == b"authorization":
                authorization = value.decode("latin-1")
            elif name == b"x-api-key":
                x_api_key = value.decode("latin-1")
            elif name == b"idempotency-key":
                text = value.decode("latin-1")
                idempotency_key = text if idempotency_key is None else f"{idempotency_key},{text}"
        service_id = ""
        if self._dialect is MARKETPLACE:
            service_id = self._path[len(_CONSUME) :].rstrip(b"/").decode("latin-1")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        key = key_of(self._dialect, authorization, x_api_key)
        return Call(self._dialect, key, self._client(), service_id, body, idempotency_key)

    def _client(self) -> str:
        """The client's address, as the trusted hop saw it."""
        if not self._running.behind_proxies:
            return self._address
        hops = [value.decode("latin-1") for name, value in self._headers if name == b"x-forwarded-for"]
        return client_address(self._address, ",".join(hops))

    # -- the answer ------------------------------------------------------------------------------------------------

    def _send(self, answer: Answer) -> None:
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        if self._method == b"HEAD":
            self._write(self._head(answer.status, headers))
        else:
            self._write(self._head(answer.status, headers) + answer.body)
        self._end(answer.status)

    async def _stream(self, stream: Stream) -> None:
        """Send events as they come. A client that goes away cancels this task, and with it the upstream's call."""
        headers = stream.headers
        write: Callable[[bytes], Awaitable[None] | None] = self._send_piece
        if self._chunked:
            headers = [*headers, ("transfer-encoding", "chunked")]
            write = self._send_chunk
        self._write(self._head(200, headers))
        self._streaming = True
        if self.disconnected and self._task is not None:
            self._task.cancel(CLIENT_GONE)
        try:
            await stream.run(write)
        except BaseException as failure:
            if not self.disconnected:
                # To the client it must not look whole, and nothing may follow it.
                self._protocol.transport.abort()
                raise
            if not isinstance(failure, asyncio.CancelledError):
                raise
        else:
            if self._chunked:
                self._write(b"0\r\n\r\n")
        finally:
            self._streaming = False
            self._end(200)

    def _send_chunk(self, data: bytes) -> Awaitable[None] | None:
        return self._send_piece(b"%x\r\n%b\r\n" % (len(data), data))

    def _send_piece(self, data: bytes) -> Awaitable[None] | None:
        """Send; where the client does not keep up, what to wait for."""
        self._write(data)
        return self._kept_up() if self._protocol.flow.write_paused else None

    async def _kept_up(self) -> None:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._protocol.flow.drain()
        except TimeoutError as error:
            # A client that does not read counts as gone, and goes once.
            self.disconnected, self._streaming = True, False
            self._protocol.transport.abort()
            raise asyncio.CancelledError(CLIENT_GONE) from error

    def _write(self, data: bytes) -> None:
        if not self.disconnected:
            self._protocol.transport.write(data)

    def _head(self, status: int, headers: Headers) -> bytes:
        lines = [STATUS_LINE[status]]
        for name, value in self._protocol.server_state.default_headers:
            lines += name, b": ", value, b"\r\n"
        text = "".join([f"{name}: {value}\r\n" for name, value in headers])
        lines.append(text.encode("latin-1"))
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    def _end(self, status: int) -> None:
        self.response_complete = True
        self._protocol.serving = None
        path, method = self._path.decode("latin-1"), self._method.decode("latin-1")
        metrics.answered(method, path, status, time.perf_counter() - self._began)
        if self.disconnected:
            return
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()
