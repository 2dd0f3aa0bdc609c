"""An open loop: calls leave by a fixed schedule, whatever became of those before, as the callers of a service do.

Latency runs from the moment at which a call was due, so a stall is seen by every call that it held up.
"""

import asyncio
import collections
import contextlib
import ctypes
import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import uvloop

from bench import calls
from bench.connections import UNAVAILABLE, Connection, connected
from bench.errors import BenchError

# The loop's own timers know milliseconds; a call every millisecond wants better ones.
CLOCK_MONOTONIC, TFD_NONBLOCK, TFD_CLOEXEC = 1, 0o4000, 0o2000000
CONNECTIONS = 64
# The first moment meets cold caches on both ways alike, and is left out.
SETTLE_SECONDS = 1.0
ANSWER_SECONDS = 15.0
OK = frozenset({200})

_libc = ctypes.CDLL(None, use_errno=True)


class TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class TimerSpec(ctypes.Structure):
    _fields_ = (("interval", TimeSpec), ("first", TimeSpec))


@contextlib.contextmanager
def ticking(interval: float) -> Iterator[int]:
    """A descriptor that becomes readable every `interval` seconds, and then tells how many times it did."""
    descriptor = _libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    each = TimeSpec(int(interval), int(interval % 1 * 1e9))
    if descriptor < 0 or _libc.timerfd_settime(descriptor, 0, ctypes.byref(TimerSpec(each, each)), None):
        raise OSError(ctypes.get_errno(), "no timer")
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Latencies:
    """Seconds, sorted; how many calls were answered as they should, and how many 503."""

    sorted_seconds: list[float]
    answered: int = 0
    refused: int = 0

    def at(self, share: float) -> float:
        """Milliseconds that this share of the calls did not exceed."""
        return (
            self.sorted_seconds[min(len(self.sorted_seconds) - 1, int(len(self.sorted_seconds) * share))]
            * 1e3
        )


class OpenLoop:
    def __init__(
        self, requests: list[bytes], *, rate: float, seconds: float, accept: frozenset[int] = OK
    ) -> None:
        self.total = int(rate * seconds)
        self._requests = itertools.cycle(requests)
        self._interval = 1 / rate
        self._accept = accept
        self._latencies: list[float] = []
        self._unexpected: collections.Counter[int] = collections.Counter()
        self._due: collections.deque[float] = collections.deque()
        self._idle: list[Connection] = []

    async def run(self, port: int, connections: int = CONNECTIONS) -> Latencies:
        """Raises BenchError unless every call was answered as expected."""
        self._finished = asyncio.Event()
        async with connected(port, connections) as opened:
            self._idle = opened
            with ticking(self._interval) as timer:
                await self._leave_on_time(timer)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), ANSWER_SECONDS)
        refused = self._unexpected.pop(UNAVAILABLE, 0)
        came = len(self._latencies)
        if came < self.total or self._unexpected or refused > came * calls.MOST_REFUSED:
            raise BenchError(
                f"of {self.total} calls {came} were answered; {refused} 503, {dict(self._unexpected)}"
            )
        skipped = int(SETTLE_SECONDS / self._interval)
        return Latencies(sorted(self._latencies[skipped:]), came - refused, refused)

    async def _leave_on_time(self, timer: int) -> None:
        loop = asyncio.get_running_loop()
        started, left = time.monotonic(), 0
        all_left = loop.create_future()

        def tick() -> None:
            nonlocal left
            for _ in range(int.from_bytes(os.read(timer, 8), "little")):
                if left == self.total:
                    break
                left += 1
                self._due.append(started + left * self._interval)
            self._send_due()
            if left == self.total and not all_left.done():
                all_left.set_result(None)

        loop.add_reader(timer, tick)
        try:
            await all_left
        finally:
            loop.remove_reader(timer)

    def _send_due(self) -> None:
        while self._due and self._idle:
            connection = self._idle.pop()
            connection.send(next(self._requests), self._answered(connection, self._due.popleft()))

    def _answered(self, connection: Connection, due: float) -> Callable[[int], None]:
        def done(status: int) -> None:
            self._latencies.append(time.monotonic() - due)
            if status not in self._accept:
                self._unexpected[status] += 1
            self._idle.append(connection)
            if self._due:
                self._send_due()
            if len(self._latencies) == self.total:
                self._finished.set()

        return done


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def measure(port: int, requests: list[bytes], *, rate: float, seconds: float) -> Latencies:
    with no_garbage_collection():
        return uvloop.run(OpenLoop(requests, rate=rate, seconds=seconds).run(port))
