"""Full load for long: is memory flat, is every call in the ledger, and does a stop under load lose nothing?"""

import asyncio
import statistics
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bench import nginx
from bench.cores import OTHER_CORE
from bench.errors import BenchError
from bench.ledger import LedgerWatch
from bench.marketplace import Gateway, Marketplace
from bench.nginx import ANSWER_TOKENS
from bench.process import Process
from bench.report import say
from bench.running import Running
from bench.stream_upstream import TOTAL_TOKENS
from bench.streams import Seen, open_streams, wait_until_ended
from bench.streams_measured import start_stream_upstream
from bench.wrk import cost_of

SLICE_SECONDS = 30
SAMPLE_SECONDS = 1.0
# The last quarter against the second: caches have filled by then.
MOST_GROWTH = 1.05
# Calls that are refused with 503, of one stretch and of all: Valkey shares its disk with PostgreSQL here, and may be
# silent for more than the 100 ms of a call when it has rewritten its file (docs/performance.md).
MOST_REFUSED_AT_ONCE, MOST_REFUSED = 0.01, 0.001
# Streams that are open when the gateway is told to stop, and how long they still go on: less than its limit.
OPEN_STREAMS, STREAM_SECONDS, SIGNAL_AFTER_SECONDS = 200, 8, 3.0
STOP_SECONDS = 60.0


@dataclass
class MemoryWatch:
    """Samples the memory of a process from a thread of its own."""

    process: Process
    samples: list[int] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self.samples.append(self.process.rss())

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def quarter(self, number: int) -> float:
        """Bytes, the median of one quarter of the time (0 to 3)."""
        size = len(self.samples) // 4
        return statistics.median(self.samples[number * size : (number + 1) * size])


def soak(folder: Path, *, minutes: float) -> None:
    """Raises BenchError where memory grew, too many calls were refused, one is missing, or a stop lost one."""
    with Running() as running:
        upstream = running.add(nginx.upstream(folder / "upstream"))
        upstream.launch(OTHER_CORE)
        marketplace = running.add(Marketplace(folder))
        say("Starting the marketplace")
        marketplace.erase()
        marketplace.start(f"{upstream.url}/v1")
        ledger = LedgerWatch(marketplace.postgres.url)
        gateway = marketplace.gateway()
        gateway.start()
        say("Proving every key once")
        ledger.expect(gateway.prove_keys(), ANSWER_TOKENS)
        full_load(running, folder, gateway, ledger, minutes)
        stream_upstream = start_stream_upstream(running, marketplace.layout)
        marketplace.point_at(f"{stream_upstream.url}/v1")
        time.sleep(2.0)
        stop_under_load(gateway, ledger)
        say(f"ledger: {ledger.check()}, as answered")


def full_load(running: Running, folder: Path, gateway: Gateway, ledger: LedgerWatch, minutes: float) -> None:
    memory = running.add(MemoryWatch(gateway.process))
    answered = refused = 0
    stop = time.monotonic() + minutes * 60
    while time.monotonic() < stop:
        cost = cost_of(
            folder, gateway.target, gateway.process, seconds=SLICE_SECONDS, most_refused=MOST_REFUSED_AT_ONCE
        )
        answered, refused = answered + cost.load.answered, refused + cost.load.refused
        ledger.expect(cost.load.answered, ANSWER_TOKENS)
        say(
            f"  {cost.load.answered:,} calls, {cost.cpu_us:.1f} µs of CPU each, p99 {cost.load.p99_ms:.1f} ms, "
            f"{cost.load.refused} refused, "
            f"{gateway.process.rss() / 1e6:.0f} MB"
        )
    memory.stop()
    say(f"ledger: {ledger.check()}, as answered")
    say(f"of {answered + refused:,} calls {refused:,} were refused (503), and are in no ledger")
    if refused > (answered + refused) * MOST_REFUSED:
        raise BenchError("too many calls were refused")
    growth = memory.quarter(3) / memory.quarter(1)
    said = f"memory in the second and last quarter: {memory.quarter(1) / 1e6:.1f}, {memory.quarter(3) / 1e6:.1f} MB"
    say(said)
    if growth > MOST_GROWTH:
        raise BenchError(f"memory grows: {said}")


def stop_under_load(gateway: Gateway, ledger: LedgerWatch) -> None:
    """SIGTERM with open streams: each comes to its end, and the gateway to its own."""
    told = {"chunks": STREAM_SECONDS * 5, "every_ms": 200}
    requests = gateway.target.streams(OPEN_STREAMS, bench=told)
    say(f"SIGTERM with {OPEN_STREAMS} streams open")
    ended = uvloop.run(_stop_under_load(gateway, requests))
    gateway.process.wait(seconds=STOP_SECONDS)
    ledger.expect(ended, TOTAL_TOKENS)


async def _stop_under_load(gateway: Gateway, requests: list[bytes]) -> int:
    seen = Seen()
    await open_streams(gateway.port, seen, requests, per_second=OPEN_STREAMS / SIGNAL_AFTER_SECONDS * 2)
    await asyncio.sleep(SIGNAL_AFTER_SECONDS / 2)
    gateway.process.ask_to_stop()
    return await wait_until_ended(seen, len(requests))
