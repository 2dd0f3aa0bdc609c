"""Calls to upstreams: OpenAI-compatible chat completions over HTTP, by a total deadline, with nothing trusted."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from datetime import timedelta

from pyreqwest.exceptions import DetailedPyreqwestError, PyreqwestError, RequestTimeoutError
from pyreqwest.request import StreamRequest
from pyreqwest.response import Response

from catalog.snapshot import Offer
from common.errors import Problem
from consumption.errors import DeadlineExceeded, UpstreamFailed, UpstreamRejected
from consumption.upstream_clients import NoAddress, UpstreamClients

log = logging.getLogger(__name__)

#: Tries of one call. Only what cannot have been worked on is tried again: no connection, or 429 and 503.
TRIES = 3
FIRST_PAUSE_SECONDS = 0.1
#: An answer larger than this is nobody's chat completion.
MOST_ANSWER_BYTES = 16 * 1024 * 1024
#: Statuses that say the caller's request is at fault.
_CALLERS_FAULT = frozenset({400, 413, 422})


class Upstream:
    """Calls to all upstreams of one gateway."""

    def __init__(self, *, max_connections: int) -> None:
        self._clients = UpstreamClients(max_connections=max_connections)

    async def close(self) -> None:
        """Close all connections."""
        await self._clients.close()

    async def call(self, offer: Offer, path: str, body: bytes, *, request_id: str, deadline: float) -> bytes:
        """The body of the upstream's 200. ``deadline``: of the event loop's clock, retries included.

        Raises ``UpstreamFailed``, ``UpstreamRejected`` or ``DeadlineExceeded``.
        """
        opened = await self.open(offer, path, body, request_id=request_id, deadline=deadline)
        try:
            return await opened.whole(MOST_ANSWER_BYTES)
        finally:
            await opened.close()

    async def open(
        self, offer: Offer, path: str, body: bytes, *, request_id: str, deadline: float
    ) -> "OpenAnswer":
        """A 200 whose body is still to come; close it. Raises as ``call`` does."""
        for attempt in range(TRIES):
            opened = await self._post(offer, path, body, request_id, deadline)
            if opened is not None and opened.status == 200:
                return opened
            status = 0
            if opened is not None:
                status = opened.status
                await opened.close()
            if status in _CALLERS_FAULT:
                raise UpstreamRejected()
            if status not in {0, 429, 503} or attempt == TRIES - 1:
                log.warning("upstream of %s answered %s", offer.name, status or "nothing: no connection")
                break
            await self._pause(attempt, deadline)
        raise _reached(UpstreamFailed()) if status else UpstreamFailed()

    async def _pause(self, attempt: int, deadline: float) -> None:
        pause = FIRST_PAUSE_SECONDS * 2**attempt * (0.5 + random.random() / 2)  # noqa: S311 - jitter, no secret
        if asyncio.get_running_loop().time() + pause >= deadline:
            raise DeadlineExceeded()
        await asyncio.sleep(pause)

    async def _post(
        self, offer: Offer, path: str, body: bytes, request_id: str, deadline: float
    ) -> "OpenAnswer | None":
        """The answer's head; None where no connection could be made, so that nothing was sent."""
        remaining = deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise DeadlineExceeded()
        url = offer.base_url + path
        try:
            client = await self._clients.of(offer.base_url)
        except NoAddress:
            return None
        request = (
            client.post(url)
            .header("x-request-id", request_id)
            .body_bytes(body)
            .timeout(timedelta(seconds=remaining))
            .streamed_read_buffer_limit(0)  # what has come is passed on at once
            .build_streamed()
        )
        try:
            return OpenAnswer(request, await request.__aenter__(), offer.name)
        except PyreqwestError as error:
            if _never_connected(error):
                return None
            raise _failure(error, offer.name) from error


class OpenAnswer:
    """An answer of an upstream whose body is being read."""

    def __init__(self, request: StreamRequest, response: Response, name: str) -> None:
        self._request = request
        self._response = response
        self._name = name
        self.status = response.status

    async def chunks(self, most_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ``UpstreamFailed`` (also beyond the cap) or ``DeadlineExceeded``."""
        size = 0
        reader = self._response.body_reader
        try:
            while (chunk := await reader.read_chunk()) is not None:
                data = chunk.to_bytes()
                size += len(data)
                if size > most_bytes:
                    raise _reached(UpstreamFailed())
                yield data
        except PyreqwestError as error:
            raise _failure(error, self._name) from error

    async def whole(self, most_bytes: int) -> bytes:
        """The whole body. Raises as ``chunks`` does."""
        length = self._response.get_header("content-length")
        if length is None or not length.isdigit() or int(length) > most_bytes:
            # Its size is not known before it has come, so it is counted as it comes.
            return b"".join([chunk async for chunk in self.chunks(most_bytes)])
        try:
            return (await self._response.bytes()).to_bytes()
        except PyreqwestError as error:
            raise _failure(error, self._name) from error

    async def close(self) -> None:
        """Let the connection go; what has not come yet is not waited for."""
        with contextlib.suppress(PyreqwestError):
            await self._request.__aexit__(None, None, None)


def _never_connected(error: PyreqwestError) -> bool:
    """Whether nothing can have been sent. The class does not tell: ``ConnectError`` is also what a server raises that
    read the request, maybe worked on it, and closed the connection without an answer."""
    if not isinstance(error, DetailedPyreqwestError):
        return False
    causes = error.details["causes"] or []
    return any(cause["message"] == "client error (Connect)" for cause in causes)


def _failure(error: PyreqwestError, name: str) -> Problem:
    if isinstance(error, RequestTimeoutError):
        return _reached(DeadlineExceeded())
    log.warning("upstream of %s: %s", name, type(error).__name__)
    return _reached(UpstreamFailed())


def _reached(error: Problem) -> Problem:
    error.reached_upstream = True
    return error
