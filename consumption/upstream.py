"""Calls to upstreams over HTTP, within deadlines; nothing is trusted or paid for twice."""

import asyncio
import logging
import random
from functools import lru_cache
from urllib.parse import urlsplit

from catalog.snapshot import Endpoint
from common.errors import Problem
from consumption.errors import DeadlineExceeded, UpstreamFailed, UpstreamRejected
from consumption.protocols.exchanges import auth_headers
from consumption.upstream_connection import Broken, Connection, NotConnected, Patience, TooSlow
from consumption.upstream_pool import UpstreamPool

log = logging.getLogger(__name__)

#: Tries of one call. Only what cannot have been worked on is tried again: no connection, or 429 and 503.
TRIES = 3
FIRST_PAUSE_SECONDS = 0.1
#: An answer larger than this is nobody's chat completion, a larger stream nobody's conversation.
MOST_ANSWER_BYTES = 16 * 1024 * 1024
MOST_STREAM_BYTES = 256 * 1024 * 1024
#: Statuses that say the caller's request is at fault.
_CALLERS_FAULT = frozenset({400, 413, 422})
_TRY_LATER = frozenset({429, 503, 529})  # 529 is Anthropic's: overloaded


class Upstream:
    """Calls to all upstreams of one gateway."""

    def __init__(self, *, max_connections: int) -> None:
        self._pool = UpstreamPool(max_connections=max_connections)

    async def close(self) -> None:
        """Cut all connections."""
        await self._pool.close()

    async def call(
        self, endpoint: Endpoint, path: str, body: bytes, *, request_id: str, deadline: float
    ) -> bytes:
        """The body of the upstream's 200. ``deadline``: of the event loop's clock, retries included.

        Raises ``UpstreamFailed``, ``UpstreamRejected`` or ``DeadlineExceeded``.
        """
        connection = await self._answered(endpoint, path, body, request_id, Patience(deadline), whole=True)
        answer = connection.whole()
        connection.close()
        return answer

    async def open(
        self, endpoint: Endpoint, path: str, body: bytes, *, request_id: str, deadline: float
    ) -> "OpenAnswer":
        """A 200 whose body is still to come; close it. Raises as ``call`` does."""
        connection = await self._answered(endpoint, path, body, request_id, Patience(deadline), whole=False)
        return OpenAnswer(connection, endpoint.base_url)

    async def _answered(
        self, endpoint: Endpoint, path: str, body: bytes, request_id: str, patience: Patience, *, whole: bool
    ) -> Connection:
        """A connection with a 200 on it."""
        head = _head(endpoint.base_url, path, endpoint.protocol, endpoint.credential)
        length = str(len(body))
        request = b"".join((head, f"{request_id}\r\ncontent-length: {length}\r\n\r\n".encode(), body))
        for attempt in range(TRIES):
            connection = await self._asked(endpoint, request, patience, whole=whole)
            if connection is not None:
                status = connection.status
                if status == 200 and not connection.encoded:
                    return connection
                connection.close()
                if status in _CALLERS_FAULT:
                    raise UpstreamRejected()
                if status not in _TRY_LATER or attempt == TRIES - 1:
                    log.warning("upstream of %s answered %d", endpoint.base_url, status)
                    raise _reached(UpstreamFailed())
            elif attempt == TRIES - 1:
                log.warning("upstream of %s: no connection", endpoint.base_url)
                break
            await self._pause(attempt, patience.until)
        raise UpstreamFailed()

    async def _asked(
        self, endpoint: Endpoint, request: bytes, patience: Patience, *, whole: bool
    ) -> Connection | None:
        """A connection with an answer on it; None where there is no connection, so that nothing was sent."""
        connection = self._pool.resting(endpoint.base_url)
        if connection is None:
            remaining = patience.until - asyncio.get_running_loop().time()
            if remaining <= 0:
                raise DeadlineExceeded()
            try:
                connection = await self._pool.connect(
                    endpoint.base_url, seconds=min(patience.connect, remaining)
                )
            except NotConnected:
                return None
        most_bytes = MOST_ANSWER_BYTES if whole else MOST_STREAM_BYTES
        try:
            await connection.send(request, patience, whole=whole, most_bytes=most_bytes)
        except (Broken, TooSlow) as error:
            raise _failure(error, endpoint.base_url) from error
        except asyncio.CancelledError:
            connection.abort()
            raise
        return connection

    async def _pause(self, attempt: int, deadline: float) -> None:
        pause = FIRST_PAUSE_SECONDS * 2**attempt * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret
        if asyncio.get_running_loop().time() + pause >= deadline:
            raise DeadlineExceeded()
        await asyncio.sleep(pause)


class OpenAnswer:
    """An answer of an upstream whose body is being read."""

    __slots__ = ("_connection", "_name")

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    async def read(self) -> bytes:
        """What has come since the last time; empty at the end. Raises ``UpstreamFailed`` or ``DeadlineExceeded``."""
        try:
            return await self._connection.read()
        except (Broken, TooSlow) as error:
            raise _failure(error, self._name) from error

    def close(self) -> None:
        """Let the connection go; what has not come yet is not waited for."""
        self._connection.close()


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


def _failure(error: Broken | TooSlow, name: str) -> Problem:
    if isinstance(error, TooSlow):
        return _reached(DeadlineExceeded())
    log.warning("upstream of %s: %s", name, error)
    return _reached(UpstreamFailed())


def _reached(error: Problem) -> Problem:
    error.reached_upstream = True
    return error
