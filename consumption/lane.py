"""The fast lane: paid calls straight from the socket, past ASGI and the framework.

A subclass of uvicorn's own protocol. It keeps uvicorn's connections, pipelining, keep-alive and shutdown, and leaves
every other path to the application; a paid call costs a third of what it costs through ASGI (``docs/performance.md``).
The same calls through Django are ``consumption.views``; the contract tests run over both.
"""

import asyncio
from typing import Any, cast
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.errors import Problem
from consumption import runtime
from consumption.dialects.base import Dialect
from consumption.paid_exchange import WRITE_SECONDS, PaidExchange
from consumption.transport import CONSUME, DIALECTS, MARKETPLACE
from keys.in_urls import holds_key

#: A request that has not come whole after this time is given up.
REQUEST_SECONDS = 30.0
#: Of a request's line and headers.
MOST_HEAD_BYTES = 64 * 1024
#: At shutdown, what is already on its way over an idle connection is still answered.
LAST_REQUEST_SECONDS = 0.5

_PATHS: dict[bytes, Dialect] = {path.encode(): dialect for path, dialect in DIALECTS.items()}
_CONSUME = CONSUME.encode()
#: Without any of these no URL holds a key. ``find`` looks for them: ``in`` makes an error of each before it looks.
_DOUBTED = (b"?", b"mk_", b"%")


def _holds_key(url: bytes) -> bool:
    """Whether the application has to say that a key is no part of a URL. Most calls are done with at the first line."""
    if max(map(url.find, _DOUBTED)) < 0:
        return False
    path, _, query = url.decode("latin-1").partition("?")
    return holds_key(unquote(path), query)


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
