"""Streams: how many chunks pass, how many stay open, how soon the first chunk comes."""

import math
import statistics
import sys

from bench import streams
from bench.calls_measured import spread
from bench.cores import OTHER_CORE, open_files
from bench.figures import Figure
from bench.ledger import LedgerWatch
from bench.marketplace import Gateway
from bench.plan import Plan
from bench.process import Process
from bench.report import say
from bench.running import Running
from bench.stream_upstream import TOTAL_TOKENS
from devstack.layout import Layout
from devstack.ports import remembered_port

FULL_SPEED_STREAMS, FULL_SPEED_CHUNKS = 200, 2000
FIRST_CHUNK_STREAMS, FIRST_CHUNK_STREAM_SECONDS = 500, 5.0
# Of the files a process may open, those that are not streams.
OTHER_FILES = 400


class StreamUpstream(Process):
    """An upstream of our own that streams as the call asks."""

    def __init__(self, layout: Layout) -> None:
        self.port = remembered_port(layout.var / "stream-port")
        command = [sys.executable, "-m", "bench.stream_upstream", str(self.port)]
        super().__init__("stream-upstream", command, cwd=layout.root, log=layout.log("stream-upstream"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        self.start(OTHER_CORE)
        self.wait_for(f"{self.url}/health")


def start_stream_upstream(running: Running, layout: Layout) -> StreamUpstream:
    upstream = running.add(StreamUpstream(layout))
    upstream.launch()
    return upstream


def full_speed(gateway: Gateway, ledger: LedgerWatch, plan: Plan) -> list[Figure]:
    """200 streams, each as fast as it is read."""
    requests = gateway.target.requests(stream=True, bench={"chunks": FULL_SPEED_CHUNKS})
    by_clock, by_cpu = [], []
    for _ in range(plan.full_speed_rounds):
        before = gateway.process.cpu_seconds()
        found = streams.full_speed(
            gateway.port, requests, streams=FULL_SPEED_STREAMS, seconds=plan.full_speed_seconds
        )
        spent = gateway.process.cpu_seconds() - before
        ledger.expect(found.streams, TOTAL_TOKENS)
        by_clock.append(found.chunks / found.seconds)
        by_cpu.append(found.streams * FULL_SPEED_CHUNKS / spent)
        say(f"  {by_clock[-1]:,.0f} chunks/s, {by_cpu[-1]:,.0f} a CPU-second of the gateway")
    return [
        Figure(
            f"SSE chunks passed on, {FULL_SPEED_STREAMS} streams",
            statistics.median(by_clock), 60_000, 150_000, "/s", True, spread(by_clock),
        ),
        Figure(
            "the same, per CPU-second of the gateway",
            statistics.median(by_cpu), 60_000, 150_000, "/s", True, spread(by_cpu),
        ),
    ]  # fmt: skip


def first_chunk(gateway: Gateway, upstream: StreamUpstream, ledger: LedgerWatch, plan: Plan) -> Figure:
    """Streams of five seconds, begun a hundred a second: 500 are open at any moment."""
    per_second = FIRST_CHUNK_STREAMS / FIRST_CHUNK_STREAM_SECONDS
    told = {"chunks": int(FIRST_CHUNK_STREAM_SECONDS * 10), "every_ms": 100}
    count = int(plan.first_chunk_seconds * per_second)
    requests = gateway.target.streams(count, bench=told)
    p99 = {}
    for name, port in (("gateway", gateway.port), ("direct", upstream.port)):
        found = streams.first_chunks(port, requests, per_second=per_second, open_at_once=FIRST_CHUNK_STREAMS)
        p99[name] = found.at(0.99)
        if name == "gateway":
            ledger.expect(found.answered, TOTAL_TOKENS)
        say(f"  first chunk, {name}: p50 {found.at(0.5):.2f} ms, p99 {found.at(0.99):.2f} ms")
    return Figure(
        "first chunk of a stream, added at p99, 500 streams", p99["gateway"] - p99["direct"], 5, 2, "ms"
    )


def many_open(gateway: Gateway, ledger: LedgerWatch, plan: Plan) -> list[Figure]:
    """Each gives one chunk a second. A gateway has two files open for each, and we and the upstream one."""
    count = min(plan.open_streams, (open_files() - OTHER_FILES) // 2)
    if count < plan.open_streams:
        say(f"  {count} streams, not {plan.open_streams}: {open_files()} open files are allowed here")
    chunks = math.ceil(count / plan.opened_per_second + plan.hold_seconds + 4)
    requests = gateway.target.streams(count, bench={"chunks": chunks, "every_ms": 1000})
    before = gateway.process.rss()
    found = streams.many_open(
        gateway.port,
        requests,
        per_second=plan.opened_per_second,
        hold_seconds=plan.hold_seconds,
        look=gateway.process.rss,
    )
    ledger.expect(found.late.answered, TOTAL_TOKENS)
    kilobytes = (found.told - before) / found.open_at_once / 1000
    say(f"  {found.open_at_once:,} open, chunks late by {found.late.at(0.5):.1f} ms at p50")
    return [
        Figure("streams open at once, one chunk a second each", found.open_at_once, 9000, 9000, "", True),
        Figure("lateness of their chunks, p99", found.late.at(0.99), 100, 100, "ms"),
        Figure("memory of one open stream", kilobytes, 60, 35, "KB"),
    ]
