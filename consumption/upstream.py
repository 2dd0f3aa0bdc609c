"""Calls to upstreams over HTTP, within deadlines; nothing is trusted or paid for twice."""

import asyncio
import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from catalog.pricing import Price
from catalog.snapshot import Endpoint
from common.errors import Problem
from consumption.errors import DeadlineExceeded, UpstreamBusy, UpstreamFailed, UpstreamRejected
from consumption.protocols.base import Exchange
from consumption.protocols.exchanges import auth_headers
from consumption.retries import NOT_CONNECTED, Again, Judgement, Verdict, judge, retry_after_of
from consumption.routing import Route, Router, Tries
from consumption.upstream_connection import Broken, Connection, NoPlace, NotConnected, Patience, TooSlow
from consumption.upstream_pool import UpstreamPool

log = logging.getLogger(__name__)

#: An answer larger than this is nobody's chat completion, a larger stream nobody's conversation.
MOST_ANSWER_BYTES = 16 * 1024 * 1024
MOST_STREAM_BYTES = 256 * 1024 * 1024
#: A longer wait is told to no caller.
MOST_RETRY_AFTER = 60
#: Statuses that say "later": nothing was done, and the caller may come back.
_LATER = frozenset({429, 503, 529})


class Outbound(msgspec.Struct, frozen=True):
    """What goes to an upstream. ``endpoints``: where to, in their order; ``exchanges``: how it is said, by protocol.

    ``output_cap``: tokens of one choice. ``whole``: whether the answer is waited for, or only its head.
    """

    request_id: str
    endpoints: tuple[Endpoint, ...]
    exchanges: Mapping[str, Exchange]
    output_cap: int
    patience: Patience
    whole: bool


class Upstream:
    """Calls to all upstreams of one gateway."""

    def __init__(self, *, max_connections: int) -> None:
        self._pool = UpstreamPool(max_connections=max_connections)
        self.router = Router(asyncio.get_running_loop().time)

    async def close(self) -> None:
        """Cut all connections."""
        await self._pool.close()

    async def ask(self, outbound: Outbound) -> "Answered":
        """A 200, from the first endpoint that gives one. End it with ``Answered.close``.

        Raises ``UpstreamFailed``, ``UpstreamRejected``, ``UpstreamBusy`` or ``DeadlineExceeded``.
        """
        tries = Tries(self.router, outbound.endpoints)
        failure: Problem | None = None
        while (route := tries.next_route()) is not None:
            answer = await self._try(route, outbound)
            if isinstance(answer, Answered):
                return answer
            judged, failure = answer
            remaining = outbound.patience.until - asyncio.get_running_loop().time()
            pause = tries.pause(judged.again, remaining=remaining)
            if pause is None:
                failure.nothing_done = judged.again is not Again.NOWHERE
                raise failure
            if pause:
                await asyncio.sleep(pause)
        # What was tried until now could have been tried again: only where nothing was done.
        failure = failure or UpstreamBusy(retry_after=math.ceil(tries.usable_in() or 1))
        failure.nothing_done = True
        raise failure

    async def _try(self, route: Route, outbound: Outbound) -> "Answered | tuple[Judgement, Problem]":
        """One endpoint's 200, or what its refusal means. Raises where the work may have been done."""
        endpoint = route.endpoint
        exchange = outbound.exchanges[endpoint.protocol]
        try:
            connection = await self._send(endpoint, exchange, outbound)
        except NotConnected:
            route.failed()
            return NOT_CONNECTED, UpstreamFailed()
        except NoPlace:
            route.abandoned()
            busy = UpstreamBusy(retry_after=1)
            busy.nothing_done = True
            raise busy from None
        except (Broken, TooSlow) as error:
            route.failed()
            raise _failure(error, endpoint) from error
        except BaseException:
            route.abandoned()
            raise
        if connection.status == 200 and not connection.encoded:
            route.answering()
            return Answered(connection, exchange, route)
        retry_after = retry_after_of(connection.retry_after)
        connection.close()
        judged = judge(connection.status, retry_after=retry_after)
        route.end(judged.verdict, retry_after=retry_after)
        return judged, _refusal(connection.status, judged, endpoint, retry_after)

    async def _send(self, endpoint: Endpoint, exchange: Exchange, outbound: Outbound) -> Connection:
        """A connection with an answer on it."""
        patience = outbound.patience
        body = exchange.upstream_body(model=endpoint.model, output_cap=outbound.output_cap)
        head = _head(endpoint.base_url, exchange.path, endpoint.protocol, endpoint.credential)
        connection = self._pool.resting(endpoint.base_url)
        if connection is None:
            remaining = patience.until - asyncio.get_running_loop().time()
            if remaining <= 0:
                late = DeadlineExceeded()
                late.nothing_done = True
                raise late
            seconds = min(patience.connect, remaining)
            connection = await self._pool.connect(endpoint.base_url, seconds=seconds)
        request = b"%b%b\r\n%bcontent-length: %d\r\n\r\n%b" % (
            head,
            outbound.request_id.encode(),
            exchange.headers,
            len(body),
            body,
        )
        most_bytes = MOST_ANSWER_BYTES if outbound.whole else MOST_STREAM_BYTES
        try:
            await connection.send(request, patience, whole=outbound.whole, most_bytes=most_bytes)
        except BaseException:
            connection.abort()
            raise
        return connection


class Answered:
    """A 200 of an upstream. ``exchange``: what reads it."""

    __slots__ = ("_connection", "_route", "exchange")

    def __init__(self, connection: Connection, exchange: Exchange, route: Route) -> None:
        self._connection = connection
        self._route = route
        self.exchange = exchange

    @property
    def price(self) -> Price | None:
        """What calls cost us at the endpoint that answered, where that is known."""
        return self._route.endpoint.cost

    def whole(self) -> bytes:
        """The body of an answer that was waited for."""
        return self._connection.whole()

    async def read(self) -> bytes:
        """What has come since the last time; empty at the end. Raises ``UpstreamFailed`` or ``DeadlineExceeded``."""
        try:
            return await self._connection.read()
        except (Broken, TooSlow) as error:
            raise _failure(error, self._route.endpoint) from error

    def close(self, failure: BaseException | None = None) -> None:
        """Let the connection go, without waiting for what has not come. ``failure``: what was wrong with the answer."""
        self._connection.close()
        if failure is None:
            self._route.ok()
        elif isinstance(failure, UpstreamFailed | DeadlineExceeded):
            self._route.failed()
        else:
            self._route.abandoned()


@lru_cache(maxsize=4096)
def _head(base_url: str, path: str, protocol: str, credential: str | None) -> bytes:
    """The request line and the headers that every call to this URL has, up to the value of ``x-request-id``."""
    parts = urlsplit(base_url + path)
    line = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n".encode()
    auth = b"".join(b"%b: %b\r\n" % header for header in auth_headers(protocol, credential))
    return (
        line
        + auth
        + (
            b"content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
            b"accept-encoding: identity\r\nuser-agent: llm-marketplace\r\nx-request-id: "
        )
    )


def _refusal(status: int, judged: Judgement, endpoint: Endpoint, retry_after: float | None) -> Problem:
    """What a status other than 200 means to the caller."""
    log.warning("upstream endpoint %s answered %d", endpoint.text, status)
    if status in _LATER:
        return UpstreamBusy(retry_after=min(MOST_RETRY_AFTER, max(1, math.ceil(retry_after or 1))))
    # Of what another endpoint may answer otherwise, the caller cannot know what to do better.
    callers_fault = judged.verdict is Verdict.REJECTED and judged.again is Again.NOWHERE
    return _reached(UpstreamRejected() if callers_fault else UpstreamFailed())


def _failure(error: Broken | TooSlow, endpoint: Endpoint) -> Problem:
    log.warning("upstream endpoint %s: %s", endpoint.text, error)
    return _reached(DeadlineExceeded() if isinstance(error, TooSlow) else UpstreamFailed())


def _reached(error: Problem) -> Problem:
    error.reached_upstream = True
    return error
