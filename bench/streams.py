"""The clients of streams: at full speed, many at once, and by a schedule."""

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench import calls
from bench.errors import BenchError
from bench.open_loop import Latencies, no_garbage_collection

MARK, MARK_LENGTH = b'"@', 14
DONE, LAST_CHUNK, TAIL_LENGTH = b"[DONE]", b"\r\n0\r\n\r\n", 64
END_SECONDS = 90.0
# Of streams at full speed there are some hundreds, and their upstream takes all it can get of the core of Valkey.
MOST_REFUSED_AT_FULL_SPEED = 0.02


@dataclass
class Seen:
    """What the clients of one measurement saw."""

    chunks: int = 0
    ended: int = 0
    refused: int = 0
    open_now: int = 0
    first_chunk: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Reader(asyncio.Protocol):
    """Streams one after the other on one connection. `again` is asked for a further request at the end of each."""

    def __init__(self, seen: Seen, request: bytes, again: Callable[[], bytes | None], due: float) -> None:
        self._seen, self._request, self._again, self._due = seen, request, again, due
        self._tail = b""
        self._begun = False
        self._asked = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._seen.open_now += 1
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._begun and not self._begin(data, now):
            return
        seen = self._seen
        seen.chunks += data.count(b"\n\n")
        at = data.find(MARK)
        while at >= 0:
            stamp = data[at + 2 : at + 2 + MARK_LENGTH]
            if len(stamp) == MARK_LENGTH:  # else it was cut, and is left out
                seen.late.append(now - float(stamp))
            at = data.find(MARK, at + MARK_LENGTH)
        self._tail = (self._tail + data)[-TAIL_LENGTH:]
        if self._tail.endswith(LAST_CHUNK):
            self._finish()

    def _begin(self, data: bytes, now: float) -> bool:
        """The first event is what counts; the head alone tells a reader nothing."""
        text = self._tail + data
        if text.startswith(b"HTTP/1.1 503"):
            self._asked = False
            self._seen.refused += 1
            self._transport.close()
            return False
        if not text.startswith(b"HTTP/1.1 200"):
            self._break(text[:200].decode(errors="replace"))
            return False
        if b"data: " not in text:
            self._tail = text
            return False
        self._tail = b""
        self._begun = True
        self._seen.first_chunk.append(now - self._due)
        return True

    def _break(self, why: str) -> None:
        self._asked = False
        self._seen.broken.append(why)
        self._transport.close()

    def _finish(self) -> None:
        if DONE not in self._tail:
            self._break("ended without [DONE]")
            return
        self._seen.ended += 1
        self._tail, self._begun = b"", False
        request = self._again()
        if request is None:
            self._asked = False
            self._transport.close()
        else:
            self._due = time.monotonic()
            self._transport.write(request)

    def connection_lost(self, error: Exception | None) -> None:
        self._seen.open_now -= 1
        if self._asked:
            self._asked = False
            self._seen.broken.append(f"closed before its end: {error}")


async def open_streams(port: int, seen: Seen, requests: list[bytes], *, per_second: float) -> int:
    """Open one stream for each request, by a schedule, and leave each when it ends. Returns how many."""
    loop = asyncio.get_running_loop()
    started = time.monotonic()

    async def open_one(number: int, request: bytes) -> None:
        due = started + number / per_second
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        # Not before it is really sent: the loop's clock knows milliseconds only.
        try:
            await loop.create_connection(
                lambda: Reader(seen, request, lambda: None, time.monotonic()), "127.0.0.1", port
            )
        except OSError as error:
            seen.broken.append(str(error))

    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(requests):
            group.create_task(open_one(number, request))
    return len(requests)


async def wait_until_ended(seen: Seen, count: int, *, most_refused: float = calls.MOST_REFUSED) -> int:
    """How many streams came to their end. Raises BenchError where one broke, or a larger part was refused with 503."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            while seen.ended + seen.refused + len(seen.broken) < count:  # noqa: ASYNC110 - nothing else is going on
                await asyncio.sleep(0.05)
    if seen.ended + seen.refused != count or seen.refused > count * most_refused:
        raise BenchError(
            f"{seen.ended} of {count} streams came to their end, {seen.refused} were refused,"
            f" {len(seen.broken)} broke: {seen.broken[:3]}"
        )
    return seen.ended


@dataclass(frozen=True)
class FullSpeed:
    """Chunks that came to the clients while all streams ran, and the streams that were read to their end."""

    chunks: int
    seconds: float
    streams: int


async def run_full_speed(port: int, requests: list[bytes], *, streams: int, seconds: float) -> FullSpeed:
    """So many connections, each reading stream after stream."""
    loop = asyncio.get_running_loop()
    seen, asked, stop = Seen(), 0, time.monotonic() + seconds

    def again() -> bytes | None:
        nonlocal asked
        if time.monotonic() > stop:
            return None
        asked += 1
        return requests[asked % len(requests)]

    for _ in range(streams):
        reader = functools.partial(Reader, seen, again() or requests[0], again, time.monotonic())
        await loop.create_connection(reader, "127.0.0.1", port)
    before, started = seen.chunks, time.monotonic()
    await asyncio.sleep(max(0.0, stop - started))
    chunks, took = seen.chunks - before, time.monotonic() - started
    await wait_until_ended(seen, asked, most_refused=MOST_REFUSED_AT_FULL_SPEED)
    return FullSpeed(chunks, took, seen.ended)


def full_speed(port: int, requests: list[bytes], *, streams: int, seconds: float) -> FullSpeed:
    with no_garbage_collection():
        return uvloop.run(run_full_speed(port, requests, streams=streams, seconds=seconds))


async def run_first_chunks(
    port: int, requests: list[bytes], *, per_second: float, open_at_once: int
) -> Latencies:
    seen = Seen()
    count = await open_streams(port, seen, requests, per_second=per_second)
    ended = await wait_until_ended(seen, count)
    # Only those count that came when as many were open as there are to be.
    return Latencies(sorted(seen.first_chunk[open_at_once:]), ended, seen.refused)


def first_chunks(port: int, requests: list[bytes], *, per_second: float, open_at_once: int) -> Latencies:
    """Seconds from the request to its first chunk, while `open_at_once` streams are open."""
    with no_garbage_collection():
        return uvloop.run(run_first_chunks(port, requests, per_second=per_second, open_at_once=open_at_once))


@dataclass(frozen=True)
class ManyOpen:
    """`late`: of the chunks that came while all were open. `told`: what `look` said in the middle of that time."""

    open_at_once: int
    late: Latencies
    told: int


async def run_many_open(
    port: int, requests: list[bytes], *, per_second: float, hold_seconds: float, look: Callable[[], int]
) -> ManyOpen:
    seen = Seen()
    opening = asyncio.ensure_future(open_streams(port, seen, requests, per_second=per_second))
    await asyncio.sleep(len(requests) / per_second + 2.0)
    seen.late.clear()
    await asyncio.sleep(hold_seconds / 2)
    open_at_once, told = seen.open_now, look()
    await asyncio.sleep(hold_seconds / 2)
    late = sorted(seen.late)
    await opening
    ended = await wait_until_ended(seen, len(requests))
    return ManyOpen(open_at_once, Latencies(late, ended, seen.refused), told)


def many_open(
    port: int, requests: list[bytes], *, per_second: float, hold_seconds: float, look: Callable[[], int]
) -> ManyOpen:
    """Open a stream for each request, hold them all open for a while, read each to its end."""
    with no_garbage_collection():
        return uvloop.run(
            run_many_open(port, requests, per_second=per_second, hold_seconds=hold_seconds, look=look)
        )
