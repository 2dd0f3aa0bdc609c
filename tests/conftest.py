"""Fixtures that every test may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.core.management import call_command
from django.db import connection
from hypothesis import HealthCheck, settings
from pytest_django import DjangoDbBlocker

from accounts.roles import sync_roles
from audit.ownership import TABLES, hand_over
from config.middleware import StaticFiles
from devstack.postgres import ROLE, Postgres
from devstack.valkey import Valkey
from keys import format as key_format
from tests.committed import empty
from tests.harness.databases import kept_as_migrated
from tests.harness.kept_by_run import KeptByRun
from tests.harness.servers import RUN
from tests.superuser import as_superuser

#: Folders whose tests start processes and mind how long things take: one worker runs all of one, one after the other.
OF_PROCESSES = ("live", "devstack")

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where two workers share the tests, a file goes to one of them whole."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        group = folder if folder in OF_PROCESSES else item.path.stem + folder
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def quicker_clients_and_passwords() -> Iterator[None]:
    """What a server pays once, each test's client would pay again: the look for static files. A password is hashed with
    Argon2 as ever, but not for a third of a second.
    """
    find_all = StaticFiles.add_files_from_finders
    found: dict[str, object] = {}

    def find_once(middleware: StaticFiles) -> None:
        if not found:
            find_all(middleware)
            found.update(middleware.files)
        middleware.files = found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StaticFiles, "add_files_from_finders", find_once)
        for cost, least in (("time_cost", 1), ("memory_cost", 8), ("parallelism", 1)):
            patched.setattr(Argon2PasswordHasher, cost, least)
        yield


@pytest.fixture(scope="session", autouse=True)
def kept_by_run() -> Iterator[KeptByRun]:
    """When all tests of this worker have run, nothing that its servers keep has a secret of the run in it (I11)."""
    kept = KeptByRun(RUN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(key_format, "NewKey", kept.remember)
        yield kept
    leaks = kept.leaks_elsewhere()
    assert not leaks, "\n".join(leaks)


@pytest.fixture(scope="session")
def django_db_setup(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, kept_by_run: KeptByRun
) -> Iterator[None]:
    """As in production, there are roles, and the audit trail is not the application's role's."""
    with django_db_blocker.unblock():
        if "django_migrations" not in connection.introspection.table_names():
            # pytest-django makes no database where all tests that were asked for have one of their own.
            call_command("migrate", verbosity=0)
    with kept_as_migrated():
        with django_db_blocker.unblock():
            sync_roles()
            if RUN.postgres is not None:
                with as_superuser():
                    hand_over(application=ROLE)
            empty(TABLES)
        yield
    # Before it is dropped.
    leaks = kept_by_run.leaks_in_database(connection.settings_dict["NAME"])
    assert not leaks, "\n".join(leaks)


@pytest.fixture(scope="session")
def postgres_server() -> Postgres:
    """The PostgreSQL that the settings point at. Stop or kill it only where no other test minds: see
    `own_postgres`.
    """
    if RUN.postgres is None:
        pytest.skip("needs a PostgreSQL of the tests' own, TEST_DATABASE_URL is set")
    return RUN.postgres


@pytest.fixture(scope="session")
def valkey_server() -> Valkey:
    """The Valkey that the settings point at. Stop or kill it only where no other test minds: see
    `own_valkey`.
    """
    if RUN.valkey is None:
        pytest.skip("needs a Valkey of the tests' own, TEST_REDIS_URL is set")
    return RUN.valkey


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Postgres]:
    """A PostgreSQL for one test to kill, stall, restart or erase (about a second)."""
    server = Postgres(tmp_path / "postgres", inherit=[RUN.lock.descriptor])
    server.start()
    yield server
    server.resume()
    server.stop()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey for one test to kill, stall, restart or erase (under 0.1 s)."""
    server = Valkey(tmp_path / "valkey", inherit=[RUN.lock.descriptor])
    server.start()
    yield server
    server.resume()
    server.stop()
