"""One paid call that Django answers: from the view to the last piece of its answer, whoever waits for it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse

from consumption.answers import Headers
from consumption.dialects.base import Answer
from consumption.relay import CLIENT_GONE, Stream

#: How long a client may leave what was sent unread.
WRITE_SECONDS = 60.0
#: How long Django may take to begin to send. It drops the answer of a client that has gone before, and tells nobody.
BEGIN_SECONDS = 10.0

#: The event loop itself does not hold on to what it runs, and a view whose client has gone is not there any more.
_running: set[asyncio.Task[None]] = set()

Response_ = TypeVar("Response_", bound=HttpResponseBase)


class PaidResponse:
    """The call is a task of its own: Django ends the view whose client goes, and the call is owed all the same."""

    def __init__(self, answering: Coroutine[Any, Any, Answer | Stream]) -> None:
        self._answer: asyncio.Future[Answer | Stream] = asyncio.get_running_loop().create_future()
        #: Django pulls, the gateway pushes: the one piece in it is sent before there is a next. None ends them.
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._begun = self._gone = self._streaming = False
        self._serving = asyncio.create_task(self._serve(answering))
        _running.add(self._serving)
        self._serving.add_done_callback(_running.discard)

    async def response(self) -> HttpResponseBase:
        """What Django sends. Who cancels this ends the waiting and not the call."""
        try:
            answer = await self._answer
        except asyncio.CancelledError:
            self._client_has_gone()
            raise
        if isinstance(answer, Stream):
            return _with(answer.headers, StreamingHttpResponse(self._pull()))
        return response_of(answer)

    async def _serve(self, answering: Coroutine[Any, Any, Answer | Stream]) -> None:
        try:
            answer = await answering
        except BaseException:
            self._answer.cancel()
            raise
        if not self._answer.done():
            self._answer.set_result(answer)
        if isinstance(answer, Stream):
            await self._push(answer)

    async def _push(self, stream: Stream) -> None:
        self._streaming = True
        if self._gone:
            self._serving.cancel(CLIENT_GONE)
        try:
            await stream.run(self._write)
        finally:
            self._pieces.put_nowait(None)

    def _client_has_gone(self) -> None:
        """A stream ends, once; a whole answer is owed all the same, and is charged."""
        if self._streaming and not self._gone:
            self._serving.cancel(CLIENT_GONE)
        self._gone = True

    async def _write(self, data: bytes) -> None:
        self._pieces.put_nowait(data)
        try:
            async with asyncio.timeout(WRITE_SECONDS if self._begun else BEGIN_SECONDS):
                await self._pieces.join()
        except TimeoutError as error:
            # A client that does not read counts as gone.
            self._gone = True
            raise asyncio.CancelledError(CLIENT_GONE) from error

    async def _pull(self) -> AsyncIterator[bytes]:
        self._begun = True
        try:
            while (data := await self._pieces.get()) is not None:
                yield data
                self._pieces.task_done()
        finally:
            self._client_has_gone()


def response_of(answer: Answer) -> HttpResponse:
    """A whole answer, as Django sends it."""
    return _with(answer.headers, HttpResponse(answer.body, status=answer.status))


def _with(headers: Headers, response: Response_) -> Response_:
    for name, value in headers:
        response[name] = value
    return response
