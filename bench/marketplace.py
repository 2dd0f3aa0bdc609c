"""The marketplace that is measured: servers, schema, sample data, drain, and gateways on demand."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

from bench import seed
from bench.calls import Target, target
from bench.connections import send_all
from bench.cores import BOTH, GATEWAY_CORE, move, prefer
from bench.process import Process
from devstack.children import gateway_command
from devstack.layout import Layout, Ports, Surroundings, manage
from devstack.ports import free_port
from devstack.postgres import Postgres
from devstack.private import private_folder
from devstack.schema import MigrationMark
from devstack.valkey import Valkey

# More streams than the default of one gateway are open at once here.
MOST_UPSTREAM_CONNECTIONS = "20000"
# As for any server that writes this much: with its default of 1 GB a checkpoint comes every few minutes, and in haste,
# on the disk that it shares with Valkey here. By the clock it takes its time.
POSTGRES_SETTINGS = {"max_wal_size": "16GB"}
# Where Valkey has written its append-only file anew it waits for the disk, and answers nobody for 60 to 80 ms here
# (docs/performance.md). At its default of 64 MB that comes every twelve seconds under full load.
VALKEY_SETTINGS = {"auto-aof-rewrite-min-size": "1gb"}


class Gateway:
    """One gateway process, and what it calls its own."""

    def __init__(self, process: Process, port: int, calls: list[tuple[str, str]]) -> None:
        self.process, self.port = process, port
        self.target: Target = target("ours", f"http://127.0.0.1:{port}", calls)

    def start(self) -> None:
        self.process.start(GATEWAY_CORE)
        self.process.wait_for(f"{self.target.url}/health/ready")

    def prove_keys(self) -> int:
        """Every call of the rotation once, on both cores since each key costs an Argon2; returns how many calls."""
        move(self.process.pids(), *BOTH)
        try:
            return asyncio.run(send_all(self.port, self.target.requests()))
        finally:
            move(self.process.pids(), GATEWAY_CORE)


class Marketplace:
    """Everything under `folder`; the data of an earlier run are used again where this checkout made them."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(var=folder)
        self.folder = folder
        self.keys_file = folder / "keys.json"
        self.postgres = Postgres(
            folder / "postgres", log=self.layout.log("postgres"), settings=POSTGRES_SETTINGS
        )
        self.valkey = Valkey(folder / "valkey", log=self.layout.log("valkey"), settings=VALKEY_SETTINGS)
        self._started: list[Process] = []

    def erase(self) -> None:
        for name in ("postgres", "valkey", "spool"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.keys_file.unlink(missing_ok=True)

    def start(self, upstream: str) -> None:
        """`upstream`: base URL that all services get."""
        mark = MigrationMark(self.layout.root, self.postgres.folder)
        if not (mark.fits() and self.keys_file.exists()):
            self.erase()
        self.postgres.start()
        self.valkey.start()
        # Calls wait for it 100 ms at most. A load that keeps it from its core would measure that load.
        prefer(self.valkey.pid)
        self.surroundings = Surroundings(
            self.layout, Ports(free_port(), free_port(), free_port()), self.postgres.url, self.valkey.url
        )
        self._run("migrate", manage("migrate", "--noinput"))
        self.point_at(upstream)
        mark.set()
        self._drain = self._process("drain", manage("drain_usage"))
        self._drain.start()
        self.calls = seed.calls_of(json.loads(self.keys_file.read_text()))

    def point_at(self, upstream: str) -> None:
        """All services get another upstream."""
        self._run("seed", [sys.executable, "-m", "bench.seed", upstream, str(self.keys_file)])

    def gateway(self, name: str = "gateway") -> Gateway:
        """One more gateway, not started yet."""
        port = free_port()
        process = self._process(name, gateway_command(port), PORT=str(port), PROCESS="gateway")
        return Gateway(process, port, self.calls)

    def stop(self) -> None:
        """Gateways first, so that they hand in what they hold, then the drain, then what both stand on."""
        for process in reversed(self._started):
            process.stop()
        self.valkey.stop()
        self.postgres.stop()

    def _run(self, name: str, command: list[str]) -> None:
        process = self._process(name, command)
        process.start(*BOTH)
        process.wait(seconds=300)

    def _process(self, name: str, command: list[str], **environment: str) -> Process:
        told = self.surroundings.environment("gateway" if name.startswith("gateway") else name)
        told |= {
            "UPSTREAM_MAX_CONNECTIONS": MOST_UPSTREAM_CONNECTIONS,
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "SPOOL_DIR": str(private_folder(self.folder / "spool")),
        }
        process = Process(
            name, command, cwd=self.layout.root, log=self.layout.log(name), env=told | environment
        )
        self._started.append(process)
        return process
