"""Kept connections to a server, cheap enough that the load does not take the core from what it loads."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools

from bench.errors import BenchError

LONGEST_ANSWER_SECONDS = 30.0
OK, UNAVAILABLE = 200, 503
PAUSES = (0.2, 0.5, *[1.0] * 20)


class Connection(asyncio.Protocol):
    """One call at a time. `done` is told the status when the answer is whole, or 0 when the connection broke."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._done: Callable[[int], None] | None = None

    def send(self, request: bytes, done: Callable[[int], None]) -> None:
        self._done = done
        if self._transport is None or self._transport.is_closing():
            self._finish(0)
        else:
            self._transport.write(request)

    async def ask(self, request: bytes) -> int:
        """The status, or 0 where the connection broke."""
        answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.send(request, lambda status: None if answered.done() else answered.set_result(status))
        return await answered

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _finish(self, status: int) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(status)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish(0)

    def on_message_complete(self) -> None:
        """The parser's hook."""
        self._finish(self._parser.get_status_code())


@contextlib.asynccontextmanager
async def connected(port: int, count: int) -> AsyncIterator[list[Connection]]:
    loop = asyncio.get_running_loop()
    opened = [(await loop.create_connection(Connection, "127.0.0.1", port))[1] for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


async def send_all(port: int, requests: list[bytes], *, at_once: int = 8) -> int:
    """Each of them once, answered 200. Returns how many; raises BenchError for any other answer.

    A 503 consumed nothing and is asked again: proving a thousand keys leaves Valkey little of either core, and after a
    start counters may still be being rebuilt.
    """
    waiting = iter(requests)

    async def work(connection: Connection) -> None:
        for request in waiting:
            for pause in PAUSES:
                status = await asyncio.wait_for(connection.ask(request), LONGEST_ANSWER_SECONDS)
                if status != UNAVAILABLE:
                    break
                await asyncio.sleep(pause)
            if status != OK:
                raise BenchError(f"a call before the measurement was answered {status}")

    async with connected(port, at_once) as opened:
        await asyncio.gather(*map(work, opened))
    return len(requests)
