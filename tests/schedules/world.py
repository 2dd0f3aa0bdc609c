"""The servers that schedules break, and the drains that run over them."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import redis

from devstack.postgres import ROLE, SUPERUSER, Postgres
from devstack.process import tied_to_us
from devstack.valkey import Valkey
from metering import shards
from tests.harness.proxy import Direction, Proxy
from tests.harness.servers import ROOT
from tests.harness.small_disk import SmallDisk
from tests.harness.waiting import wait_for
from tests.schedules.gateway import Gateway


@dataclass(eq=False)
class DrainProcess:
    """A drain. ``armed``: where it is to die; ``ended``: by whom it was ended, if by us."""

    pid: int
    armed: str = ""
    ended: str = ""

    @property
    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Nursery:
    """Where drains come from."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        # Those that are killed would not tell what they ran, and all would be slower by a third.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.schedules.nursery"],
                cwd=ROOT,
                env={**kept, "PROCESS": "gateway", **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                preexec_fn=tied_to_us(signal.SIGKILL),
            )

    def drain(self, crash_at: str = "") -> DrainProcess:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(crash_at.encode() + b"\n")
        self._process.stdin.flush()
        return DrainProcess(int(self._process.stdout.readline()), armed=crash_at)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass(eq=False)
class World:
    """PostgreSQL behind a proxy, Valkey, a gateway, and drains."""

    postgres: Postgres
    database: str
    proxy: Proxy
    valkey: Valkey
    gateway: Gateway
    nursery: Nursery
    log: Path
    disk: SmallDisk | None
    drains: list[DrainProcess] = field(default_factory=list)
    #: How often what was to be shown has been seen.
    seen: Counter[str] = field(default_factory=Counter)

    def saw(self, what: str) -> None:
        self.seen[what] += 1

    # -- drains --------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> list[DrainProcess]:
        """The drains that run. One that ended by itself is a failure."""
        for drain in [drain for drain in self.drains if not drain.is_alive]:
            self.drains.remove(drain)
            if not drain.ended:
                assert drain.armed, (
                    f"a drain ended by itself:\n{self.log.read_text(errors='replace')[-6000:]}"
                )
                self.saw("death at a step")
                self.saw(f"died {drain.armed.partition(':')[0]}")
        return self.drains

    def start_drain(self, crash_at: str = "") -> DrainProcess:
        drain = self.nursery.drain(crash_at)
        self.drains.append(drain)
        return drain

    def end(self, drain: DrainProcess, number: signal.Signals) -> None:
        drain.ended = drain.ended or number.name
        drain.send(number)

    # -- servers -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def superuser(self) -> Iterator[Any]:
        """A cursor straight to the server, each statement committed by itself."""
        other = psycopg2.connect(
            host="127.0.0.1", port=self.postgres.port, dbname=self.database, user=SUPERUSER,
            password=self.postgres.superuser_password,
        )  # fmt: skip
        other.autocommit = True
        try:
            with other.cursor() as cursor:
                yield cursor
        finally:
            other.close()

    def sessions(self) -> list[int]:
        """The server processes of drains."""
        with self.superuser() as cursor:
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE usename = %s AND datname = %s ORDER BY pid",
                [ROLE, self.database],
            )
            return [pid for (pid,) in cursor.fetchall()]

    def end_postgres(self, number: signal.Signals) -> None:
        """Asked to stop while it recovers from a crash, PostgreSQL 18 may never end; whoever runs it kills it then."""
        self.postgres.signal(number)
        process = self.postgres._process
        assert process is not None
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            self.saw("PostgreSQL that does not stop")
            self.postgres.kill()

    def restart_valkey(self) -> None:
        self.valkey.kill()
        self.valkey.start()

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.valkey.url)

    @staticmethod
    def leases(client: redis.Redis, shard: int) -> list[uuid.UUID]:
        found: Any = client.hkeys(shards.leases_key(shard))
        return [uuid.UUID(id_.decode()) for id_ in found]

    # -- afterwards ----------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Nothing is broken any more, and one drain runs at least. Everything else has to come by itself."""
        if self.disk is not None:
            self.disk.free()
        self.proxy.links[Direction.TO_SERVER].awaited = None
        self.proxy.resume()
        self.proxy.accept()
        self.valkey.resume()
        self.valkey.start()
        self.restart_postgres()
        for drain in self.alive:
            if drain.armed:
                self.end(drain, signal.SIGKILL)
            drain.send(signal.SIGCONT)
        if not [drain for drain in self.alive if not drain.ended]:
            self.start_drain()

    def restart_postgres(self) -> None:
        if not self.postgres.running:
            self.postgres.start()

    def settle_down(self, seconds: float) -> None:
        """Wait until every call is in PostgreSQL and every shard is open."""
        client = self.client()
        try:
            wait_for(
                lambda: self.alive and self._are_open() and self.gateway.is_idle and self._is_drained(client),
                seconds=seconds,
            )
        finally:
            client.close()

    def _are_open(self) -> bool:
        """Whether all shards are, for good: a drain that died may have left them so in Valkey alone."""
        with contextlib.suppress(psycopg2.Error), self.superuser() as cursor:
            cursor.execute("SELECT count(*) FROM shard_epochs WHERE state <> 'live'")
            return bool(cursor.fetchone() == (0,))
        return False

    def _is_drained(self, client: redis.Redis) -> bool:
        pipeline = client.pipeline(transaction=False)
        for shard in range(shards.SHARDS):
            pipeline.xlen(shards.journal_key(shard))
        try:
            return sum(pipeline.execute()) == 0 and self.gateway.is_idle
        except redis.RedisError:
            return False

    def close(self) -> None:
        for drain in self.alive:
            self.end(drain, signal.SIGKILL)
        self.gateway.stop()
        self.nursery.close()
        self.valkey.stop()
        self.postgres.stop()


def log_since(log: Path, offset: int) -> str:
    return log.read_bytes()[offset:].decode(errors="replace")
