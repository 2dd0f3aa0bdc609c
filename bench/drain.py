"""How fast the journal comes into the ledger. ``python -m bench.drain [rows [rows already there …]]``

One drain, its PostgreSQL and all that this does by itself share one core; Valkey and whoever writes the journal have
the other. Rows a second are those of the wall clock; CPU is told apart, since other work on the machine disturbs it
less. Then entries come at a steady rate, and each is looked for: from the moment before it is journalled to the moment
at which the watermark says that PostgreSQL has it. A gateway journals a call before it answers, a stream's a moment
after.

With ``rows already there`` the ledger is filled to each of these numbers in turn, rollups and all, by the database
itself, and all is measured again; at the end usage is read as ``bench.usage_reads`` says.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import usage_reads, usage_rows
from bench.cores import BOTH, GATEWAY_CORE, OTHER_CORE, move, on_cores, prepare_machine
from bench.errors import BenchError
from bench.figures import HEAD, Figure, table
from bench.own_servers import ROOT, servers
from bench.usage_market import Market, check_sums
from devstack.process import spawn

ROWS = 200_000
RATE, SECONDS = 2_000, 10.0
#: A step of the writer at a steady rate, and how often watermarks are looked at.
EVERY = 0.005
AT_ONCE = 1_000
MOST_SECONDS = 600.0
TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU so far: the drain, its sessions at PostgreSQL, the rest of PostgreSQL, Valkey."""

    drain: float
    session: float
    rest: float
    valkey: float

    def since(self, before: "Cpu") -> "Cpu":
        return Cpu(
            self.drain - before.drain, self.session - before.session, self.rest - before.rest,
            self.valkey - before.valkey,
        )  # fmt: skip


@dataclass(frozen=True)
class Drained:
    """Rows that were drained, in so many seconds of the clock, for so much CPU."""

    rows: int
    seconds: float
    cpu: Cpu

    @property
    def per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_us(self) -> float:
        """Of drain and session, a row."""
        return (self.cpu.drain + self.cpu.session) / self.rows * 1e6

    def told(self) -> str:
        parts = {
            "drain": self.cpu.drain, "its session": self.cpu.session, "rest of PostgreSQL": self.cpu.rest,
            "Valkey": self.cpu.valkey,
        }  # fmt: skip
        each = ", ".join(f"{name} {seconds / self.rows * 1e6:.1f}" for name, seconds in parts.items())
        rows = f"{self.rows:,} rows in {self.seconds:.1f} s: {self.per_second:,.0f} a second"
        return f"{rows}; µs of CPU a row: {each}"


class Bench:
    """Servers, the market, and one drain that is running."""

    def __init__(self, folder: Path) -> None:
        from metering import valkey

        self.market = Market()
        self.valkey = valkey.connect()
        self._postmaster = int((folder / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
        self._log = folder / "drain.log"

    def keep_postgres_on(self, *cores: int) -> None:
        move([self._postmaster, *_children(self._postmaster)], *cores)

    @contextlib.contextmanager
    def drain(self) -> Iterator["Bench"]:
        """A drain as anybody runs it, which has opened all shards."""
        command = [sys.executable, "manage.py", "drain_usage"]
        with on_cores(GATEWAY_CORE):
            self._drain = spawn(command, cwd=ROOT, log=self._log, env={**os.environ, "PROCESS": "gateway"})
        try:
            self._wait_until_open()
            yield self
        finally:
            self._drain.send_signal(signal.SIGCONT)
            self._drain.send_signal(signal.SIGTERM)
            try:
                self._drain.wait(10)
            except subprocess.TimeoutExpired:
                self._drain.kill()
                self._drain.wait()

    def _wait_until_open(self) -> None:
        from metering.models import ShardEpoch
        from metering.shards import SHARDS

        deadline = time.monotonic() + 60
        while ShardEpoch.objects.filter(state=ShardEpoch.State.LIVE).count() < SHARDS:
            if time.monotonic() > deadline:
                raise BenchError(f"the drain does not open its shards: see {self._log}")
            time.sleep(0.1)

    def backlog(self, rows: int) -> Drained:
        """Write so many entries while the drain stands still, and let it go on."""
        self._drain.send_signal(signal.SIGSTOP)
        for start in range(0, rows, AT_ONCE):
            self._write(min(AT_ONCE, rows - start))
        before, started = self._cpu(), time.monotonic()
        self._drain.send_signal(signal.SIGCONT)
        while self._waiting():
            if time.monotonic() - started > MOST_SECONDS:
                raise BenchError(f"{self._waiting()} entries are still in the journal")
            time.sleep(0.05)
        return Drained(rows, time.monotonic() - started, self._cpu().since(before))

    def steady(self, rate: float, seconds: float) -> list[float]:
        """Milliseconds from journal to ledger of entries that come evenly, sorted."""
        from metering import shards
        from metering.stream import order

        keys = [shards.watermark_key(shard) for shard in range(shards.SHARDS)]
        under_way: list[deque[tuple[tuple[int, int], float]]] = [deque() for _ in keys]
        took: list[float] = []
        written, started = 0, time.monotonic()
        while written < rate * seconds or any(under_way):
            due = min(int((time.monotonic() - started) * rate), int(rate * seconds))
            for shard, id_, at in self._write(due - written):
                under_way[shard].append((order(id_.decode()), at))
            written = due
            marks: Any = self.valkey.mget(keys)
            now = time.monotonic()
            for mark, entries in zip(marks, under_way, strict=True):
                passed = order(mark.decode().partition(":")[2])
                while entries and entries[0][0] <= passed:
                    took.append((now - entries.popleft()[1]) * 1e3)
            if now - started > seconds + MOST_SECONDS:
                raise BenchError(f"of {written} entries {len(took)} came into the ledger")
            time.sleep(EVERY)
        return sorted(took)

    def _write(self, count: int) -> list[tuple[int, bytes, float]]:
        """Journal so many entries: shard, stream id, and the moment before it was journalled."""
        from metering import shards

        made = [self.market.entry() for _ in range(count)]
        if not made:
            return []
        pipeline = self.valkey.pipeline(transaction=False)
        for shard, data in made:
            pipeline.xadd(shards.journal_key(shard), {"e": data, "s": "lease"})
        at = time.monotonic()
        return [(shard, id_, at) for (shard, _), id_ in zip(made, pipeline.execute(), strict=True)]

    def _waiting(self) -> int:
        from metering import shards

        pipeline = self.valkey.pipeline(transaction=False)
        for shard in range(shards.SHARDS):
            pipeline.xlen(shards.journal_key(shard))
        return sum(pipeline.execute())

    def _cpu(self) -> Cpu:
        info: Any = self.valkey.info("cpu")
        sessions = [_ticks(pid) for pid in self._sessions()]
        processes = [_ticks(pid) for pid in _children(self._postmaster)]
        everything = sum(processes) + _ticks(self._postmaster, ended=True)
        return Cpu(
            _ticks(self._drain.pid) / TICK, sum(sessions) / TICK, (everything - sum(sessions)) / TICK,
            info["used_cpu_user"] + info["used_cpu_sys"],
        )  # fmt: skip

    @staticmethod
    def _sessions() -> list[int]:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND client_port IS NOT NULL"
                " AND pid <> pg_backend_pid()"
            )
            return [row[0] for row in cursor.fetchall()]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _ticks(pid: int, *, ended: bool = False) -> int:
    """User and system time of a process, and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return sum(int(field) for field in fields[11 : 15 if ended else 13])


def at(sorted_values: list[float], share: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * share))]


def measure(bench: Bench, rows: int, what: str) -> list[Figure]:
    drained = bench.backlog(rows)
    sys.stdout.write(f"{what}: {drained.told()}\n")
    took = bench.steady(RATE, SECONDS)
    sys.stdout.write(
        f"{what}: journal to ledger at {RATE:,} a second, ms: p50 {at(took, 0.5):.0f}, p99 {at(took, 0.99):.0f}, "
        f"worst {took[-1]:.0f}\n"
    )
    sys.stdout.flush()
    return [
        Figure(f"rows a second, {what}", drained.per_second, 20_000, 40_000, "/s", more_is_better=True),
        Figure(f"CPU of drain and session a row, {what}", drained.cpu_us, 50, 25, "µs"),
        Figure(f"journal to ledger at {RATE:,}/s, worst, {what}", took[-1], 1_000, 1_000, "ms"),
    ]


def main() -> int:
    numbers = [int(text) for text in sys.argv[1:]] or [ROWS]
    rows, sizes = numbers[0], numbers[1:]
    prepare_machine()
    figures: list[Figure] = []
    with servers() as folder:
        import django

        django.setup()
        bench = Bench(folder)
        move([int(bench.valkey.info("server")["process_id"])], OTHER_CORE)
        for size in sizes or [0]:
            bench.keep_postgres_on(*BOTH)
            if size:
                usage_rows.fill(bench.market, size)
            bench.keep_postgres_on(GATEWAY_CORE)
            what = f"{size:,} rows there" if size else "empty ledger"
            with bench.drain():
                figures += measure(bench, rows, what)
            check_sums()
        if sizes:
            figures += usage_reads.measure(bench.market, what)
    sys.stdout.write(table(HEAD, [figure.row() for figure in figures]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
