"""Servers of the schedules' own: copies of the tests', on a disk that can be full."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection
from pytest_django import DjangoDbBlocker

from devstack.postgres import Postgres
from devstack.valkey import Valkey
from metering import partitions
from tests.harness.proxy import Proxy
from tests.harness.servers import RUN
from tests.harness.small_disk import SmallDisk
from tests.metering.market import database_url
from tests.schedules.gateway import Gateway, Offer, quicken
from tests.schedules.offers import make_offers
from tests.schedules.world import Nursery, World


def copy_of(server: Postgres, folder: Path) -> Postgres:
    """A server with the same data, schema and accounts; migrating anew would take longer than all schedules."""
    server.stop()
    subprocess.run(["/bin/cp", "-a", server.folder, folder], check=True)
    server.start()
    (folder / "port").unlink()
    # What a deadlock costs is a twentieth of what it usually does; all else is as on a server that matters.
    settings = {"deadlock_timeout": "50ms", "max_wal_size": "128MB"}
    copied = Postgres(folder, inherit=[RUN.lock.descriptor], settings=settings)
    copied.start()
    return copied


@pytest.fixture(scope="package")
def world(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    postgres_server: Postgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("schedules")
    disk = SmallDisk.mounted(folder / "disk")
    with pytest.MonkeyPatch.context() as patch, django_db_blocker.unblock():
        connection.close()
        postgres = copy_of(postgres_server, folder / "disk" / "postgres" if disk else folder / "postgres")
        patch.setitem(connection.settings_dict, "PORT", str(postgres.port))
        partitions.make_ahead()
        # Who is told that something is settled has it on disk: what a restart finds there is all of it.
        valkey = Valkey(folder / "valkey", inherit=[RUN.lock.descriptor], settings={"appendfsync": "always"})
        valkey.start()
        patch.setattr(settings, "REDIS_URL", valkey.url)
        quicken(patch)
        with Proxy(postgres.port) as proxy:
            log = folder / "drains.log"
            environment = {"DATABASE_URL": proxy.url(database_url()), "REDIS_URL": valkey.url}
            gateway = Gateway(valkey.url, folder / "spool")
            nursery = Nursery(environment, log)
            database = connection.settings_dict["NAME"]
            world = World(postgres, database, proxy, valkey, gateway, nursery, log, disk)
            gateway.start()
            yield world
            connection.close()
            world.close()
        connection.close()
    if disk is not None:
        disk.unmount()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def db(world: World) -> None:
    """In the place of pytest-django's, which makes its database where a test asks for this: commits here are real, and
    nothing is emptied from one schedule to the next."""


@pytest.fixture(scope="package")
def offers(world: World) -> list[Offer]:
    return make_offers()


def seeds() -> list[int]:
    """``SCHEDULES=n`` are so many, from ``FIRST_SEED`` on; with ``SCHEDULE_SEED=s`` they are all of that seed, and one
    where no number is given."""
    if "SCHEDULE_SEED" in os.environ:
        return [int(os.environ["SCHEDULE_SEED"])] * int(os.environ.get("SCHEDULES", "1"))
    first = int(os.environ.get("FIRST_SEED", "1"))
    return list(range(first, first + int(os.environ.get("SCHEDULES", "25"))))
