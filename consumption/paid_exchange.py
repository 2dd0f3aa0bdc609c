"""One paid call on a connection of the lane: from the last byte of its request to the last of its answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from common.errors import Problem, TooLarge
from common.networks import client_address
from consumption import metrics, runtime
from consumption.answers import Headers, refusal
from consumption.call import Call
from consumption.dialects.base import Answer, Dialect
from consumption.relay import CLIENT_GONE, Stream
from consumption.transport import CONSUME, MARKETPLACE, key_of

if TYPE_CHECKING:
    from consumption.lane import LaneProtocol

#: How long a client may leave what was sent unread.
WRITE_SECONDS = 60.0


class MethodNotAllowed(Problem):
    code, status, title = "method_not_allowed", 405, "The method is not allowed here"


class PaidExchange:
    """Stands where uvicorn keeps its own request-response cycle."""

    __slots__ = (
        "_address", "_began", "_body", "_chunked", "_dialect", "_expects", "_headers", "_method", "_path", "_protocol",
        "_refused", "_running", "_size", "_streaming", "_task", "disconnected", "keep_alive", "may_begin", "more_body",
        "response_complete",
    )  # fmt: skip

    def __init__(
        self, protocol: "LaneProtocol", running: runtime.Runtime, dialect: Dialect, path: bytes
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
            self._protocol.tasks.discard(self._task)  # type: ignore[arg-type]  # it runs, so there is one

    def _call(self) -> Call:
        """What came in. A header that comes twice is one list, as Django has it."""
        headers = dict(self._headers)
        key = key_of(self._dialect, _text(headers, b"authorization"), _text(headers, b"x-api-key"))
        idempotency_key = None
        if b"idempotency-key" in headers:
            idempotency_key = ",".join(self._values(b"idempotency-key"))
        betas = ",".join(self._values(b"anthropic-beta")) if b"anthropic-beta" in headers else ""
        service_id = ""
        if self._dialect is MARKETPLACE:
            service_id = self._path[len(CONSUME) :].rstrip(b"/").decode("latin-1")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        return Call(self._dialect, key, self._client(), service_id, body, idempotency_key, betas)

    def _values(self, wanted: bytes) -> list[str]:
        return [value.decode("latin-1") for name, value in self._headers if name == wanted]

    def _client(self) -> str:
        """The client's address, as the trusted hop saw it."""
        if not self._running.behind_proxies:
            return self._address
        return client_address(self._address, ",".join(self._values(b"x-forwarded-for")))

    # -- the answer ------------------------------------------------------------------------------------------------

    def _send(self, answer: Answer) -> None:
        head = self._head(answer.status, [*answer.headers, ("content-length", str(len(answer.body)))])
        self._write(head if self._method == b"HEAD" else head + answer.body)
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
        own = _lines(tuple(self._protocol.server_state.default_headers))
        text = "".join([f"{name}: {value}\r\n" for name, value in headers])
        end = b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n"
        return b"%b%b%b%b" % (STATUS_LINE[status], own, text.encode("latin-1"), end)

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


@lru_cache(maxsize=1)
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Those that uvicorn wants in every answer: the date, so they change once a second."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
