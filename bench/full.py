"""The whole benchmark: everything that is started, every section in its order, and the tables at the end."""

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bench import calls_measured as calls
from bench import machine, nginx, origin
from bench import streams_measured as streams
from bench.calls import target
from bench.contenders import Contender, compare, pause, require_peers, start_peers
from bench.cores import GATEWAY_CORE, OTHER_CORE
from bench.errors import BenchError
from bench.figures import HEAD, Figure, number, table
from bench.ledger import LedgerWatch
from bench.marketplace import Gateway, Marketplace
from bench.nginx import ANSWER_TOKENS
from bench.open_loop import Latencies
from bench.plan import Plan
from bench.report import say
from bench.running import Running
from bench.steps import StepTime, read_steps, step_times
from bench.wrk import Cost

RESULTS = "results.json"


class Run:
    """One run. What it found is in its fields, in the order of the sections."""

    def __init__(self, folder: Path, results: Path, plan: Plan) -> None:
        self.folder, self.results, self.plan = folder, results, plan
        self.figures: list[Figure] = []
        self.costs: dict[str, list[Cost]] = {}
        self.contenders: list[Contender] = []
        self.skipped: list[str] = []
        self.failed: list[str] = []
        self.steps: list[StepTime] = []
        self.whole = Latencies([0.0])
        self.resources: dict[str, tuple[str, str, str]] = {}
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        """Raises BenchError where the run is not valid."""
        with Running() as running:
            self._start(running)
            self._calls(running)
            self._streams(running)
        self.report()
        if self.failed:
            raise BenchError("the run is not valid: " + "; ".join(self.failed))

    @contextmanager
    def section(self, name: str, *, needed: bool = False) -> Iterator[None]:
        """Where a section fails that no other needs, the others are measured all the same."""
        say(name)
        started = time.monotonic()
        try:
            yield
        except BenchError as error:
            if needed:
                raise
            self.failed.append(f"{name}: {error}")
            say(f"  FAILED: {error}")
        self.seconds[name] = round(time.monotonic() - started, 1)

    # -- what is measured ----------------------------------------------------------------------------------------

    def _start(self, running: Running) -> None:
        with self.section("Starting the marketplace", needed=True):
            self.upstream = running.add(nginx.upstream(self.folder / "upstream"))
            self.upstream.launch(OTHER_CORE)
            self.marketplace = running.add(Marketplace(self.folder))
            self.marketplace.erase()  # so that every run begins with an empty ledger
            self.marketplace.start(f"{self.upstream.url}/v1")
            self.urls = self.marketplace.postgres.url, self.marketplace.valkey.url
            self.machine = machine.describe(*self.urls)
            self.ledger = LedgerWatch(self.marketplace.postgres.url)

    def _gateway(self, name: str) -> Gateway:
        gateway = self.marketplace.gateway(name)
        gateway.start()
        return gateway

    def _prove_keys(self, gateway: Gateway) -> None:
        self.ledger.expect(gateway.prove_keys(), ANSWER_TOKENS)

    def _calls(self, running: Running) -> None:
        gateway = self._gateway("gateway")
        idle = gateway.process.rss()
        idle_sessions = machine.sessions(*self.urls)
        with self.section("Proving every key once", needed=True):
            self._prove_keys(gateway)
        proxy = running.add(nginx.proxy(self.folder / "proxy", self.upstream))
        proxy.launch(GATEWAY_CORE)
        bare = Contender(proxy, target("nginx", proxy.url, self.marketplace.calls), "anything but pass on")
        pause(bare)
        with self.section("Starting the others"):
            peers, self.skipped = start_peers(running, self.folder, self.upstream)
        self.contenders = [bare, *peers]
        with self.section("CPU of a call, by turns"):
            self._compare(gateway)
        loaded, loaded_sessions = gateway.process.rss(), machine.sessions(*self.urls)
        for contender in self.contenders:
            contender.process.stop(seconds=5)
        self.figures += [
            Figure("memory of one gateway process, idle", idle / 1e6, 120, 80, "MB"),
            Figure("memory of one gateway process, at full load", loaded / 1e6, 250, 150, "MB"),
        ]
        with self.section("Added latency"):
            self._latency(gateway, idle, loaded, (idle_sessions, loaded_sessions))
        for rate in self.plan.rates:
            with self.section(f"Added latency at {rate}/s"):
                further, _ = calls.added_latency(gateway, self.upstream, self.ledger, self.plan, rate=rate)
                self.figures += further
        with self.section("Wrong keys"):
            self.figures.append(calls.wrong_keys(gateway, self.marketplace, self.ledger, self.plan))
        self._two(gateway)
        self._check_ledger()

    def _compare(self, gateway: Gateway) -> None:
        mine = Contender(gateway.process, gateway.target, "", pausable=False)
        self.costs, broken = compare(
            self.folder, mine, self.contenders, rounds=self.plan.rounds, seconds=self.plan.seconds
        )
        self.skipped += broken
        self.ledger.expect(sum(cost.load.answered for cost in self.costs["ours"]), ANSWER_TOKENS)
        peers = [name for name in self.costs if name not in ("ours", "nginx")]
        require_peers(peers)
        self.figures += calls.throughput(gateway, self.costs, peers)

    def _latency(
        self, gateway: Gateway, idle: int, loaded: int, sessions: tuple[tuple[int, int], ...]
    ) -> None:
        before, cpu = read_steps(gateway.target.url), gateway.process.cpu_seconds()
        figures, pairs = calls.added_latency(gateway, self.upstream, self.ledger, self.plan)
        cpu = gateway.process.cpu_seconds() - cpu
        self.steps = step_times(before, read_steps(gateway.target.url))
        self.figures += figures
        self.whole = Latencies(sorted(latency for ours, _ in pairs for latency in ours.sorted_seconds))
        share = cpu / (self.plan.latency_pairs * self.plan.latency_seconds) * 100
        (idle_db, idle_valkey), (loaded_db, loaded_valkey) = sessions
        now = machine.sessions(*self.urls)
        self.resources = {
            "memory": (megabytes(idle), megabytes(gateway.process.rss()), megabytes(loaded)),
            "CPU": ("-", f"{share:.0f} %", "100 %"),
            "database connections": (str(idle_db), str(now[0]), str(loaded_db)),
            "Redis / Valkey connections": (str(idle_valkey), str(now[1]), str(loaded_valkey)),
        }

    def _two(self, first: Gateway) -> None:
        with self.section("Two gateways"):
            second = self._gateway("gateway-2")
            self._prove_keys(second)
            self.figures.append(calls.two_processes(self.folder, first, second, self.ledger, self.plan))
            for gateway in (second, first):
                gateway.process.stop()

    def _streams(self, running: Running) -> None:
        with self.section("Starting a gateway for streams", needed=True):
            upstream = streams.start_stream_upstream(running, self.marketplace.layout)
            gateway = self._gateway("gateway-streams")
            self._prove_keys(gateway)
            self.marketplace.point_at(f"{upstream.url}/v1")
            time.sleep(2.0)  # a change is in force everywhere in under one
        with self.section("Many streams open"):
            self.figures += streams.many_open(gateway, self.ledger, self.plan)
        with self.section("First chunk"):
            self.figures.append(streams.first_chunk(gateway, upstream, self.ledger, self.plan))
        with self.section("Streams at full speed"):
            self.figures += streams.full_speed(gateway, self.ledger, self.plan)
        self._check_ledger()

    def _check_ledger(self) -> None:
        with self.section("Ledger"):
            found = self.ledger.check()
            say(f"  {found.calls:,} calls and {found.tokens:,} tokens, exactly those answered")

    # -- what is told --------------------------------------------------------------------------------------------

    def report(self) -> None:
        say("\n" + "\n".join(f"{name:12} {value}" for name, value in self.machine.items()))
        say("\n" + table(HEAD, [figure.row() for figure in self.figures]))
        say("\n" + self._contender_table())
        for line in self.skipped:
            say(line)
        say("\nThe report's stages beside ours, at 1,000 calls/s")
        say(origin.stage_table(self.steps, self.whole))
        if self.resources:
            say("\nThe report's resources beside ours")
            say(origin.resource_table(self.resources))
        for line in self.failed:
            say(f"FAILED {line}")
        if not self.failed:
            say(f"\n{self.ledger.calls:,} calls were answered 200, and the ledger has exactly these.")
        say(f"{sum(self.seconds.values()):.0f} s in all.")
        self.results.write_text(json.dumps(self.as_json(), indent=2) + "\n")

    def _contender_table(self) -> str:
        known = {contender.target.name: contender for contender in self.contenders}
        rows = []
        for name, costs in self.costs.items():
            contender = known.get(name)
            version = contender.version if contender else ""
            rows.append(
                [
                    f"{name} {version}".strip(),
                    number(statistics.median(cost.cpu_us for cost in costs)),
                    number(statistics.median(cost.per_cpu_second for cost in costs)),
                    number(statistics.median(cost.load.per_second for cost in costs)),
                    number(statistics.median(cost.load.p99_ms for cost in costs)),
                    contender.does_not if contender else "everything on",
                ]
            )
        return table(["gateway", "µs of CPU a call", "calls a CPU-s", "calls/s", "p99 ms", "does not"], rows)

    def as_json(self) -> dict[str, object]:
        return {
            "machine": self.machine,
            "figures": [figure.as_json() for figure in self.figures],
            "contenders": {
                name: [asdict(cost) | {"cpu_us": cost.cpu_us} for cost in costs]
                for name, costs in self.costs.items()
            },
            "skipped": self.skipped,
            "failed": self.failed,
            "steps_ms": [asdict(step) for step in self.steps],
            "resources": self.resources,
            "calls_in_ledger": self.ledger.calls,
            "section_seconds": self.seconds,
        }


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
