"""What an operator sees of endpoints in trouble: in the console, and in a gateway's metrics."""

import asyncio
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import LazySettings
from django.conf import settings as configured
from django.test import Client
from django.utils.html import strip_tags

from catalog import snapshot
from catalog.snapshot import Endpoint
from consumption import gauges, metrics
from consumption.breaker import FIRST_OPEN_SECONDS, State
from consumption.endpoint_troubles import GATEWAYS, KEPT_SECONDS, TroubleTeller, key_of, read_troubles
from consumption.routing import Router, Trouble
from quotas.line import Line
from tests.console import console, operator
from tests.factories import make_endpoint, make_service
from tests.harness.clock import Clock

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.console_urls")]

PAGE = "/admin/consumption/serviceupstream/"
ONE, OTHER = "1" * 32, "2" * 32


@pytest.fixture
def valkey() -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(configured.REDIS_URL)
    names = [GATEWAYS, key_of(ONE), key_of(OTHER)]
    client.delete(*names)
    yield client
    client.delete(*names)
    client.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> Router:
    return Router(clock)


async def _nothing(line: Line) -> None: ...


def tell(*tellers: tuple[str, Router]) -> None:
    """Each of these gateways tells, once."""

    async def run() -> None:
        line = Line(configured.REDIS_URL, on_connect=_nothing, timeout=5)
        await line.start()
        assert await line.wait_open(5)
        for name, router in tellers:
            await TroubleTeller(router, line, name).tell()
        await line.stop()

    asyncio.run(run())


def endpoints_of(service: Any) -> tuple[Endpoint, ...]:
    return snapshot.load().offers[service.id].endpoints


def call(router: Router, endpoint: Endpoint, *, times: int = 1) -> Iterator[Any]:
    for _ in range(times):
        route = router.choose((endpoint,))
        assert route is not None
        yield route


def trip(router: Router, endpoint: Endpoint) -> None:
    for route in call(router, endpoint, times=5):
        route.failed()


def test_what_gateways_tell_is_read_by_gateway(valkey: redis.Redis, router: Router) -> None:
    service = make_service()
    (endpoint,) = endpoints_of(service)
    trip(router, endpoint)
    other = Router(Clock())
    next(call(other, endpoint)).busy(retry_after=7)
    tell((ONE, router), (OTHER, other))
    told = read_troubles()
    assert set(told) == {ONE, OTHER}
    assert told[OTHER] == {str(service.id): Trouble(State.CLOSED, 7.0)}
    assert told[ONE] == router.troubles()
    assert told[ONE][str(service.id)].state is State.OPEN
    assert 0 < valkey.ttl(key_of(ONE)) <= KEPT_SECONDS


def test_a_gateway_without_troubles_tells_nothing(valkey: redis.Redis, router: Router) -> None:
    (endpoint,) = endpoints_of(make_service())
    next(call(router, endpoint)).ok()
    tell((ONE, router))
    assert valkey.exists(GATEWAYS, key_of(ONE)) == 0
    assert read_troubles() == {}


async def test_that_it_is_over_is_told_once(valkey: redis.Redis, router: Router, clock: Clock) -> None:
    endpoint = Endpoint(uuid.uuid4(), "http://127.0.0.1:9/v1", "openai", "m", 1, 0)
    line = Line(configured.REDIS_URL, on_connect=_nothing, timeout=5)
    await line.start()
    assert await line.wait_open(5)
    teller = TroubleTeller(router, line, ONE)
    trip(router, endpoint)
    await teller.tell()
    assert valkey.exists(key_of(ONE)) == 1
    clock.wait(FIRST_OPEN_SECONDS)
    next(call(router, endpoint)).ok()
    await teller.tell()
    assert valkey.exists(key_of(ONE)) == 0
    valkey.set(key_of(ONE), "somebody else's")
    await teller.tell()
    assert valkey.exists(key_of(ONE)) == 1, "it is silent now"
    await line.stop()


def rows(client: Client, query: str = "") -> dict[str, str]:
    """Service names and what is shown of their endpoints."""
    answer = client.get(f"{PAGE}?{query}")
    assert answer.status_code == 200
    found = answer.context["cl"]
    shown = found.model_admin.endpoint_states
    return {row.name: strip_tags(shown(row).replace("</div>", "\n")).strip() for row in found.result_list}


def test_the_page_shows_every_endpoint_and_its_state_by_gateway(
    valkey: redis.Redis, router: Router, clock: Clock
) -> None:
    single, several = make_service("single"), make_service("several")
    first = make_endpoint(several, base_url="http://127.0.0.1:11/v1")
    second = make_endpoint(several, base_url="http://127.0.0.1:12/v1", order=1)
    make_endpoint(several, base_url="http://127.0.0.1:13/v1", order=2, enabled=False)
    client = console(operator("viewer"))
    well = {
        "single": "http://127.0.0.1:9/v1: closed",
        "several": "http://127.0.0.1:11/v1: closed\nhttp://127.0.0.1:12/v1: closed\nhttp://127.0.0.1:13/v1: disabled",
    }
    assert rows(client) == well
    assert rows(client, "state=trouble") == {}

    trip(router, endpoints_of(several)[0])
    clock.wait(FIRST_OPEN_SECONDS)
    next(call(router, endpoints_of(several)[1])).busy(retry_after=7)
    other = Router(Clock())
    next(call(other, endpoints_of(several)[0])).busy(retry_after=30)
    tell((ONE, router), (OTHER, other))
    assert rows(client, "state=trouble") == {
        "several": f"{first.base_url}: half-open, one call at a time (gateway 11111111); "
        "busy, called again in 30 s (gateway 22222222)\n"
        f"{second.base_url}: busy, called again in 7 s (gateway 11111111)\nhttp://127.0.0.1:13/v1: disabled"
    }
    assert rows(client, "q=:12/") == rows(client, "state=trouble")
    assert rows(client)["single"] == well["single"]

    trip(router, endpoints_of(single)[0])
    tell((ONE, router))
    assert set(rows(client, "state=trouble")) == {"single", "several"}
    assert "open, tried again in" in rows(client, "state=trouble")["single"]


def test_the_page_opens_while_valkey_is_away(settings: LazySettings) -> None:
    make_service("single")
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    client = console(operator("viewer"))
    assert rows(client) == {"single": "http://127.0.0.1:9/v1: unknown"}
    assert "Valkey does not answer" in client.get(PAGE).content.decode()


def test_the_page_is_for_those_who_may_see_services_and_changes_nothing() -> None:
    service = make_service()
    stranger, viewer = operator("service_account"), operator("viewer")
    assert console(stranger).get(PAGE).status_code == 403
    client = console(viewer)
    assert "serviceupstream" in client.get("/admin/").content.decode()
    assert "serviceupstream" not in console(stranger).get("/admin/").content.decode()
    answer = client.get(f"{PAGE}{service.id}/change/")
    assert (answer.status_code, answer["Location"]) == (302, f"/admin/catalog/service/{service.id}/change/")
    boss = console(operator("super_admin"))
    assert boss.get(f"{PAGE}add/").status_code == 403
    assert boss.post(f"{PAGE}{service.id}/delete/", {"post": "yes"}).status_code == 403
    assert type(service).objects.filter(id=service.id).exists()


def test_the_gauge_tells_the_state_of_every_endpoint_there_is(router: Router, clock: Clock) -> None:
    service = make_service()
    rows = [make_endpoint(service, order=order) for order in range(3)]
    single = make_service()
    loaded = snapshot.load()
    open_, half_open, _ = loaded.offers[service.id].endpoints
    trip(router, half_open)
    clock.wait(FIRST_OPEN_SECONDS)
    trip(router, open_)
    assert gauge(loaded, router) == {
        (str(service.id), str(rows[0].id)): 2.0,
        (str(service.id), str(rows[1].id)): 1.0,
        (str(service.id), str(rows[2].id)): 0.0,
        (str(single.id), str(single.id)): 0.0,
    }
    rows[0].delete()
    assert (str(service.id), str(rows[0].id)) not in gauge(snapshot.load(), router)


def gauge(loaded: snapshot.Snapshot, router: Router) -> dict[tuple[str, str], float]:
    gauges.observe_endpoints(loaded, router)
    (family,) = metrics.UPSTREAM_ENDPOINT_STATE.collect()
    assert family.name == "upstream_endpoint_state"
    return {(s.labels["service_id"], s.labels["endpoint_id"]): s.value for s in family.samples}
