"""What an admission costs Valkey, and the gateway. ``python -m bench.admission [admissions]``

One Valkey with the append-only file on, as in production; one process asks it over one connection, so many calls in
one write. What decides is CPU time: of Valkey's thread, and of this process for making the call and reading the
answer, which is the gateway's share beyond the script's own. As in production each admission is settled a little
later, and the journal is trimmed, so what is open stays as small as it is there; admissions and settles are measured
apart, by turns.

How fast a machine is differs by more than versions do. So a script that decides nothing and does no more than the bare
commands of an admission (read the epoch, read and write what is counted) is measured between: admissions beside it say
what deciding, leases that tell everything and the rest cost, whatever the machine.
"""

import contextlib
import os
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis

from bench.errors import BenchError
from bench.figures import HEAD, Figure, table
from bench.marketplace import VALKEY_SETTINGS
from devstack.valkey import Valkey

ADMISSIONS = 200_000
#: Calls in one write, and consumers that they are of by turns.
AT_ONCE = 64
#: Writes of admissions, before as many of settles of those before.
WRITES = 16
CONSUMERS = 200
#: Far above what is used, so that all are let in.
MANY = 10**12


@dataclass
class Cost:
    """Seconds of CPU: of Valkey's main thread, and of the process that asks; of so many calls."""

    valkey: float = 0.0
    caller: float = 0.0
    calls: int = 0

    @property
    def valkey_us(self) -> float:
        return self.valkey / self.calls * 1e6

    @property
    def caller_us(self) -> float:
        return self.caller / self.calls * 1e6


#: The commands that any admission needs, and nothing else: of a bucket and a quota; and with two budgets and a lease.
BARE = """
redis.call('GET', KEYS[1])
redis.call('HMGET', KEYS[2], 't', 'at')
redis.call('HMGET', KEYS[3], 'used', 'reserved')
redis.call('HSET', KEYS[2], 't', ARGV[1], 'at', ARGV[2])
redis.call('HINCRBY', KEYS[3], 'reserved', 100)
"""
BARE_FURTHER = (
    BARE
    + """
redis.call('HMGET', KEYS[4], 'used', 'reserved')
redis.call('HMGET', KEYS[5], 'used', 'reserved')
redis.call('HINCRBY', KEYS[4], 'reserved', 900)
redis.call('HINCRBY', KEYS[5], 'reserved', 900)
redis.call('HSET', KEYS[6], ARGV[3], ARGV[4])
"""
)


class Connection:
    """Commands in, answers out, as many as were sent."""

    def __init__(self, valkey: Valkey) -> None:
        at = urlsplit(valkey.url)
        self._socket = socket.create_connection((at.hostname, at.port or 0))
        self._reader = hiredis.Reader()
        self.call("AUTH", at.password)

    def ask(self, data: bytes, answers: int = 1) -> list[Any]:
        self._socket.sendall(data)
        found: list[Any] = []
        while len(found) < answers:
            answer = self._reader.gets()
            if answer is False:
                self._reader.feed(self._socket.recv(1 << 20))
                continue
            if isinstance(answer, hiredis.ReplyError):
                raise answer
            found.append(answer)
        return found

    def call(self, *arguments: str | None) -> Any:
        return self.ask(hiredis.pack_command(arguments))[0]  # type: ignore[arg-type]  # of any length

    def info(self, section: str) -> dict[str, str]:
        text: bytes = self.call("INFO", section)
        rows = (row.partition(":") for row in text.decode().splitlines() if ":" in row)
        return {name: value for name, _, value in rows}


def further(consumer: uuid.UUID, service: uuid.UUID) -> Any:
    """A set with one of every kind of limit, and both periods of money, for each scope that it may have."""
    from metering import shards
    from quotas.limits import KINDS, Limit, limit_set

    limits = [
        Limit("c", "service", f"c:{service}", MANY),
        Limit("c", "key", f"c:{consumer}", MANY),
        Limit("b", "key", f"b:{consumer}", 10**6),
        Limit("p", "service", f"p:{service}", MANY),
        Limit("t", "key", shards.tokens_field(consumer), MANY),
        Limit("m", "consumer", shards.money_field("USD"), MANY, "USD"),
        Limit("m", "key", shards.money_field("USD", consumer), MANY, "USD"),
        Limit("d", "service", shards.money_field("USD", service), MANY, "USD"),
    ]
    ordered = tuple(sorted(limits, key=lambda limit: KINDS.index(limit.kind)))
    return limit_set(10**6, MANY, ordered, (0, 1, 10))


class Callers:
    """Calls of many consumers by turns, as a gateway makes them."""

    def __init__(self, epoch: str, *, every_limit: bool) -> None:
        from quotas import commands, names
        from quotas.limits import limit_set

        self._epoch = epoch
        self._signature = commands.Signature("bench:1", 10**9)
        self._periods = names.Periods()
        pairs = [(uuid.UUID(int=number + 1), uuid.UUID(int=7)) for number in range(CONSUMERS)]
        self._ready = [
            commands.Ready(
                names.names_of(consumer, service),
                further(consumer, service) if every_limit else limit_set(10**6, MANY),
                commands.Counted(consumer, "USD"),
            )
            for consumer, service in pairs
        ]
        self._entry = b"e" * 300  # about what the journal's entry of a call takes
        self._next = 0

    def admissions(self, count: int) -> tuple[bytes, list[tuple[int, str]]]:
        """So many commands, as bytes; and who they are of: a consumer's place, and the request's id."""
        from common import clock
        from common.ids import text, uuid7

        now = clock.now_ms()
        period = self._periods.of(now)
        made, calls = [], []
        for _ in range(count):
            place = self._next % CONSUMERS
            self._next += 1
            id_ = text(uuid7())
            calls.append((place, id_))
            made.append(
                self._ready[place].admit(
                    self._signature, self._epoch, period, id_=id_, at_ms=now, deadline_ms=now + 5_000,
                    need=(50, 50, 1, True), entry=self._entry,
                )
            )  # fmt: skip
        return b"".join(made), calls

    def settles(self, calls: list[tuple[int, str]]) -> bytes:
        from common import clock

        period = self._periods.of(clock.now_ms())
        return b"".join(
            self._ready[place].settle(
                self._signature, self._epoch, period, id_=id_, tokens=80, nano=900, entry=self._entry
            )
            for place, id_ in calls
        )


class BareCallers:
    """The same of the bare script: keys of as many consumers by turns, and a lease for each call."""

    def __init__(self, connection: Connection, epoch: str, *, every_limit: bool) -> None:
        sha = connection.call("SCRIPT", "LOAD", BARE_FURTHER if every_limit else BARE).decode()
        connection.call("SET", "bare:epoch", epoch)
        self._commands: list[tuple[str, ...]] = []
        for number in range(CONSUMERS):
            keys = [f"bare:{name}:{number}" for name in ("bucket", "quota", "budget", "other", "leases")]
            kept = keys if every_limit else keys[:2]
            self._commands.append(
                ("EVALSHA", sha, str(1 + len(kept)), "bare:epoch", *kept, "99.5", "1764000000000")
            )
        self._with_lease = every_limit
        self._next = 0

    def calls(self, count: int) -> bytes:
        made = []
        for _ in range(count):
            lease = (str(uuid.uuid4()), "e" * 300) if self._with_lease else ()
            made.append(hiredis.pack_command((*self._commands[self._next % CONSUMERS], *lease)))
            self._next += 1
        return b"".join(made)


@dataclass
class Run:
    """One Valkey, and callers who settle what they were let in for a few writes later."""

    connection: Connection
    callers: Callers
    bare_callers: BareCallers
    admission: Cost = field(default_factory=Cost)
    settle: Cost = field(default_factory=Cost)
    bare: Cost = field(default_factory=Cost)

    def admit(self) -> list[list[tuple[int, str]]]:
        with self._measured(self.admission):
            let_in = []
            for _ in range(WRITES):
                data, calls = self.callers.admissions(AT_ONCE)
                let_in.append(calls)
                answers = self.connection.ask(data, AT_ONCE)
        if not all(isinstance(answer, bytes) for answer in answers):
            raise BenchError(f"not let in: {answers}")
        return let_in

    def end(self, let_in: list[list[tuple[int, str]]]) -> None:
        with self._measured(self.settle):
            for calls in let_in:
                answers = self.connection.ask(self.callers.settles(calls), AT_ONCE)
        if not all(isinstance(answer, bytes) for answer in answers):
            raise BenchError(f"not settled: {answers}")

    def run_bare(self) -> None:
        with self._measured(self.bare):
            for _ in range(WRITES):
                self.connection.ask(self.bare_callers.calls(AT_ONCE), AT_ONCE)
        for number in range(CONSUMERS):  # as settles do
            self.connection.call("DEL", f"bare:leases:{number}")

    @contextlib.contextmanager
    def _measured(self, cost: Cost) -> Iterator[None]:
        before, own = _valkey_cpu(self.connection), time.process_time()
        yield
        own = time.process_time() - own
        cost.valkey += _valkey_cpu(self.connection) - before
        cost.caller += own
        cost.calls += WRITES * AT_ONCE

    def trim(self) -> None:
        """As the drain does."""
        from metering import shards

        for shard in range(shards.SHARDS):
            self.connection.call("XTRIM", shards.journal_key(shard), "MAXLEN", "0")


def measure(valkey: Valkey, *, every_limit: bool, admissions: int) -> Run:
    from metering import shards
    from quotas import commands

    connection = Connection(valkey)
    connection.call("FLUSHALL")
    for script in (commands.ADMIT, commands.SETTLE):
        connection.call("SCRIPT", "LOAD", script.text)
    epoch = f"1:{connection.info('server')['run_id']}"
    for shard in range(shards.SHARDS):
        connection.call("SET", shards.epoch_key(shard), epoch)
    bare = BareCallers(connection, epoch, every_limit=every_limit)
    run = Run(connection, Callers(epoch, every_limit=every_limit), bare)
    let_in = run.admit()
    run.admission = Cost()
    for _ in range(max(1, admissions // (WRITES * AT_ONCE))):
        now, let_in = let_in, run.admit()
        run.end(now)
        run.trim()
        run.run_bare()
    return run


def _valkey_cpu(connection: Connection) -> float:
    cpu = connection.info("cpu")
    return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])


def figures(run: Run, what: str, at_least: float, beside: float) -> list[Figure]:
    """``beside``: what is wanted beside the bare script, by the trial that the wanted figure comes from."""
    return [
        Figure(
            f"admissions per second of one Valkey core, {what}", 1e6 / run.admission.valkey_us, at_least, at_least,
            "/s", more_is_better=True,
        ),
        Figure(
            f"the same beside a script of the bare commands, {what}", run.bare.valkey_us / run.admission.valkey_us,
            beside, beside, "x", more_is_better=True,
        ),
        Figure(f"CPU of an admission in the caller, {what}", run.admission.caller_us, 10, 10, "µs"),
        # Of settles nothing is asked by itself; every admission is followed by one, so the same of them.
        Figure(
            f"settles per second of one Valkey core, {what}", 1e6 / run.settle.valkey_us, at_least, at_least, "/s",
            more_is_better=True,
        ),
        Figure(f"CPU of a settle in the caller, {what}", run.settle.caller_us, 10, 10, "µs"),
    ]  # fmt: skip


def main() -> int:
    admissions = int(sys.argv[1]) if len(sys.argv) > 1 else ADMISSIONS
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        valkey = Valkey(Path(folder), settings=VALKEY_SETTINGS)
        valkey.start()
        try:
            # A trial of bare scripts on another machine gave 190,000 and, with two budgets and a lease, 50,000.
            for what, every_limit, at_least, beside in (
                ("bucket and quota", False, 100_000, 100 / 190),
                ("every limit", True, 40_000, 40 / 50),
            ):
                run = measure(valkey, every_limit=every_limit, admissions=admissions)
                rows += [figure.row() for figure in figures(run, what, at_least, beside)]
        finally:
            valkey.stop()
    sys.stdout.write(table(HEAD, rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
