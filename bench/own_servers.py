"""PostgreSQL and Valkey of a measurement's own, and gateways on them; they end with it."""

import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from devstack.children import gateway_command
from devstack.ports import free_port
from devstack.postgres import Postgres
from devstack.process import spawn
from devstack.readiness import answers_ok
from devstack.valkey import Valkey

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def servers(**settings: str) -> Iterator[Path]:
    """Migrated and in the environment, so that Django can be set up next. Yields their folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        postgres, valkey = Postgres(folder / "postgres"), Valkey(folder / "valkey")
        postgres.start()
        valkey.start()
        try:
            os.environ.update(
                DATABASE_URL=postgres.url,
                REDIS_URL=valkey.url,
                SECRET_KEY=secrets.token_hex(32),
                UPSTREAM_ALLOWED_NETWORKS="127.0.0.0/8",
                CREDENTIAL_KEYS=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
                KEY_PEPPERS=json.dumps({"1": secrets.token_hex(32)}),
                DJANGO_SETTINGS_MODULE="config.settings",
                **settings,
            )
            subprocess.run([sys.executable, "manage.py", "migrate", "--verbosity", "0"], cwd=ROOT, check=True)
            yield folder
        finally:
            valkey.stop()
            postgres.stop()


@contextlib.contextmanager
def gateways(count: int, folder: Path) -> Iterator[list[int]]:
    """Gateways, each with a spool of its own; yields their ports."""
    ports = [free_port() for _ in range(count)]
    started = []
    try:
        for port in ports:
            env = {
                **os.environ,
                "PROCESS": "gateway",
                "PORT": str(port),
                "SPOOL_DIR": str(folder / f"spool-{port}"),
            }
            started.append(spawn(gateway_command(port), cwd=ROOT, log=folder / f"{port}.log", env=env))
        for port in ports:
            _wait(f"http://127.0.0.1:{port}/health")
        yield ports
    finally:
        for process in started:
            process.kill()
            process.wait()


def _wait(url: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not answers_ok(url):
        if time.monotonic() > deadline:
            raise TimeoutError(url)
        time.sleep(0.05)
