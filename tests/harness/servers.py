"""The servers of a test run, and the environment that points the application at them.

A pytest plugin of its own (`-p tests.harness.servers`), since it has to act before pytest-django reads the
settings. `TEST_DATABASE_URL` and `TEST_REDIS_URL` put the tests on real servers; whichever is not given is
started here, with its data in a folder under `var/` that goes when the run ends.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from devstack.errors import DevstackError
from devstack.lock import FolderLock
from devstack.ports import PART
from devstack.postgres import Postgres
from devstack.server import Server
from devstack.valkey import Valkey

ROOT = Path(__file__).resolve().parent.parent.parent
# Set by whoever calls the tests, and of no meaning to them: what is tested must not depend on it.
OUTSIDE = ("PORT", "PROCESS", "DEBUG", "CELERY_BROKER_URL", "KAFKA_TOPIC", "LANE", "VALKEY_CLUSTER")


@dataclass
class TestRun:
    """What one run of pytest owns: a folder, its lock, and the servers in it."""

    __test__ = False

    folder: Path = field(default_factory=lambda: ROOT / "var" / f"test-{os.getpid()}")
    postgres: Postgres | None = None
    valkey: Valkey | None = None

    def __post_init__(self) -> None:
        self.lock = FolderLock(self.folder)

    def start(self) -> None:
        if worker := os.environ.get("PYTEST_XDIST_WORKER"):
            number = int(worker.removeprefix("gw")) + 1
            os.environ[PART] = f"{number}/{os.environ['PYTEST_XDIST_WORKER_COUNT']}"
        remove_leftovers(self.folder.parent)
        self.lock.acquire()
        if "TEST_DATABASE_URL" not in os.environ:
            # Nothing here has to survive a crash of the machine, and fsync is most of the time a test takes. Its random
            # password needs no stretching, which costs 5 ms of CPU in each connection.
            quick = {
                "fsync": "off",
                "synchronous_commit": "off",
                "full_page_writes": "off",
                "scram_iterations": "1",
            }
            self.postgres = Postgres(self.folder / "postgres", inherit=[self.lock.descriptor], settings=quick)
            self.postgres.start()
        if "TEST_REDIS_URL" not in os.environ:
            self.valkey = Valkey(self.folder / "valkey", inherit=[self.lock.descriptor])
            self.valkey.start()

    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres.url if self.postgres else os.environ["TEST_DATABASE_URL"],
            "REDIS_URL": self.valkey.url if self.valkey else os.environ["TEST_REDIS_URL"],
            "SECRET_KEY": secrets.token_hex(32),
            "KEY_PEPPERS": json.dumps({"1": secrets.token_hex(32)}),
            "CREDENTIAL_KEYS": Fernet.generate_key().decode(),
            "SPOOL_DIR": str(self.folder / "spool"),
            "AUDIT_ANCHOR_FILE": str(self.folder / "audit-anchors"),
            "UPSTREAM_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
            "SECOND_FACTOR_REQUIRED": "off",  # but where that is what is tested
            "DJANGO_SETTINGS_MODULE": "config.settings",
        }

    def stop(self) -> None:
        servers: list[Server | None] = [self.valkey, self.postgres]
        for server in servers:
            if server is not None:
                server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.release()


def remove_leftovers(var: Path) -> None:
    """Folders of runs that were killed. One whose lock is held belongs to a run that is still going on."""
    for folder in var.glob("test-*"):
        if time.time() - folder.stat().st_mtime < 60 and not (folder / "lock").exists():
            continue  # just being made
        lock = FolderLock(folder)
        if lock.try_acquire():
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


RUN = TestRun()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests() -> Generator[None, None, None]:
    try:
        RUN.start()
    except (DevstackError, OSError) as error:
        RUN.stop()
        raise pytest.UsageError(f"the tests' servers did not start: {error}") from error
    for name in OUTSIDE:
        os.environ.pop(name, None)
    os.environ.update(RUN.environment())
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None:
        config.option.basetemp = str(RUN.folder / "tmp")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    RUN.stop()
