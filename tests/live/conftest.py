"""One stack of processes for all live tests, on a database and a Valkey of its own."""

import contextlib
from collections.abc import Iterator

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from devstack.valkey import Valkey
from tests.harness.databases import make_migrated
from tests.harness.servers import RUN
from tests.live.stack import GatewayProcess, Stack

DATABASE = "live"


@pytest.fixture(scope="session")
def live_stack(tmp_path_factory: pytest.TempPathFactory, live_database_url: str) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("live")
    valkey = Valkey(folder / "valkey", inherit=[RUN.lock.descriptor])
    valkey.start()
    stack = Stack(folder, live_database_url, valkey)
    stack.start_drain()
    stack.start_upstream()
    yield stack
    stack.stop()
    valkey.resume()
    valkey.stop()


@pytest.fixture(scope="session")
def live_database_url(django_db_setup: None) -> str:
    """A database of its own, since its tests commit and other processes hold on to what they saw."""
    return make_migrated(DATABASE)


@pytest.fixture
def stack(live_stack: Stack, django_db_blocker: DjangoDbBlocker) -> Iterator[Stack]:
    """The stack, with this test's own queries going to the stack's database."""
    with django_db_blocker.unblock(), _connected_to(DATABASE):
        yield live_stack


@pytest.fixture(scope="session")
def lane_gateway(live_stack: Stack) -> GatewayProcess:
    return live_stack.start_gateway(lane=True)


@pytest.fixture(scope="session")
def view_gateway(live_stack: Stack) -> GatewayProcess:
    return live_stack.start_gateway(lane=False)


@pytest.fixture(params=["lane", "view"])
def gateway(request: pytest.FixtureRequest, stack: Stack) -> GatewayProcess:
    """Both transports, one after the other: the contract is the same."""
    found: GatewayProcess = request.getfixturevalue(f"{request.param}_gateway")
    return found


@contextlib.contextmanager
def _connected_to(name: str) -> Iterator[None]:
    """Points Django's connection at another database of the same server, and back."""
    connection.close()
    before, connection.settings_dict["NAME"] = connection.settings_dict["NAME"], name
    yield
    connection.close()
    connection.settings_dict["NAME"] = before
