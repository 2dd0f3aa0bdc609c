"""What an admission costs Valkey, and the gateway. ``python -m bench.admission [admissions]``

One Valkey with the append-only file on, as in production; one process asks it over one connection, so many calls in
one write. What decides is CPU time: of Valkey's thread, and of this process for making the call and reading the
answer, which is the gateway's share beyond the script's own.
"""

import os
import socket
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis

from bench.errors import BenchError
from bench.figures import HEAD, Figure, table
from devstack.valkey import Valkey

ADMISSIONS = 200_000
#: Calls in one write, and consumers that they are of by turns.
AT_ONCE = 64
CONSUMERS = 200
#: Far above what is used, so that all are let in.
MANY = 10**12


@dataclass(frozen=True)
class Cost:
    """Microseconds of CPU an admission: of Valkey's main thread, and of the process that asks."""

    valkey_us: float
    caller_us: float
    per_second: float


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
            )
            for consumer, service in pairs
        ]
        self._entry = b"e" * 300  # about what the journal's entry of a call takes
        self._next = 0

    def calls(self, count: int) -> bytes:
        """So many commands, as bytes."""
        from common import clock
        from common.ids import uuid7

        now = clock.now_ms()
        period = self._periods.of(now)
        made = []
        for _ in range(count):
            ready = self._ready[self._next % CONSUMERS]
            self._next += 1
            made.append(
                ready.admit(
                    self._signature, self._epoch, period, id_=str(uuid7()), at_ms=now, deadline_ms=now + 5_000,
                    need=(50, 50, 1, True), entry=self._entry,
                )
            )  # fmt: skip
        return b"".join(made)


def measure(valkey: Valkey, *, every_limit: bool, admissions: int) -> Cost:
    from metering import shards
    from quotas import commands

    connection = Connection(valkey)
    connection.call("FLUSHALL")
    connection.call("SCRIPT", "LOAD", commands.ADMIT.text)
    epoch = f"1:{connection.info('server')['run_id']}"
    for shard in range(shards.SHARDS):
        connection.call("SET", shards.epoch_key(shard), epoch)
    callers = Callers(epoch, every_limit=every_limit)
    for answer in connection.ask(callers.calls(AT_ONCE), AT_ONCE):
        if answer[0] != b"ok":
            raise BenchError(f"not let in: {answer}")
    before, own, started = _valkey_cpu(connection), time.process_time(), time.monotonic()
    for _ in range(admissions // AT_ONCE):
        connection.ask(callers.calls(AT_ONCE), AT_ONCE)
    seconds, own, after = time.monotonic() - started, time.process_time() - own, _valkey_cpu(connection)
    return Cost((after - before) / admissions * 1e6, own / admissions * 1e6, admissions / seconds)


def _valkey_cpu(connection: Connection) -> float:
    cpu = connection.info("cpu")
    return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])


def figures(cost: Cost, what: str, at_least: float) -> list[Figure]:
    return [
        Figure(
            f"admissions per second of one Valkey core, {what}", 1e6 / cost.valkey_us, at_least, at_least, "/s",
            more_is_better=True,
        ),
        Figure(f"CPU of an admission in the caller, {what}", cost.caller_us, 10, 10, "µs"),
    ]  # fmt: skip


def main() -> int:
    admissions = int(sys.argv[1]) if len(sys.argv) > 1 else ADMISSIONS
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        valkey = Valkey(Path(folder))
        valkey.start()
        try:
            for what, every_limit, at_least in (
                ("bucket and quota", False, 100_000),
                ("every limit", True, 40_000),
            ):
                cost = measure(valkey, every_limit=every_limit, admissions=admissions)
                rows += [figure.row() for figure in figures(cost, what, at_least)]
        finally:
            valkey.stop()
    sys.stdout.write(table(HEAD, rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
