"""Local mode: with Valkey away, gateways serve out of their shares, and all of it is counted once afterwards."""

import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from catalog.models import Entitlement, Service
from keys.models import ApiKey
from tests import factories
from tests.harness.hostile import hostile_upstream
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack
from tests.live.test_faults import Load, answered, assert_consistent, live_counters, records

LIMIT = 4_000
START = Callable[..., GatewayProcess]


@pytest.fixture
def service(stack: Stack) -> Service:
    return factories.make_service(endpoint=stack.upstream_url, outage_mode="local")


@pytest.fixture
def start(stack: Stack) -> Iterator[START]:
    """Starts gateways that are stopped with the test, so that none holds a share any longer."""
    started: list[GatewayProcess] = []

    def one(spool: str = "", port: int = 0) -> GatewayProcess:
        spool = spool or str(stack.folder / f"spool-{uuid.uuid4()}")
        started.append(stack.start_gateway(port=port, SPOOL_DIR=spool, MAX_GATEWAYS="2"))
        return started[-1]

    yield one
    stack.valkey.resume()
    for gateway in started:
        gateway.terminate()


def limited_key(service: Service, **limits: Any) -> tuple[ApiKey, str]:
    key, text = factories.make_key(service=service, **limits)
    Entitlement.objects.filter(consumer=key.consumer).update(
        tokens_per_month=LIMIT, requests_per_second=100_000
    )
    return key, text


def share_of(stack: Stack, key: ApiKey) -> int:
    return live_counters(stack, key)[1]


def warm_up(stack: Stack, key: ApiKey, text: str, service: Service, *gateways: GatewayProcess) -> int:
    """Every gateway has served the key and holds a share; returns how much they hold together."""
    for gateway in gateways:
        before = share_of(stack, key) if records(key) else 0
        assert gateway.consume(service.id, text, {"prompt": "warm", "max_tokens": 5}).status_code == 200
        wait_for(lambda before=before: share_of(stack, key) > before + 100)  # type: ignore[misc]
        wait_for(lambda: records(key))
    return share_of(stack, key)


def used_up(load: Load) -> bool:
    """Whether nothing is served any more: five calls in a row are refused."""
    before = len(load.succeeded)
    load.run(5, at_once=5, tries=5)
    return len(load.succeeded) == before


def mode_of(gateway: GatewayProcess) -> str:
    metrics = gateway.get("/metrics").text.splitlines()
    (mode,) = [
        line for line in metrics if line.startswith("consumption_gateway_mode{") and line.endswith(" 1.0")
    ]
    return mode.partition('"')[2].partition('"')[0]


def assert_counted(stack: Stack, key: ApiKey, load: Load, before: set[str]) -> None:
    """The ledger has what was answered and counters have the ledger, once nobody holds a share any more."""
    wait_for(lambda: live_counters(stack, key)[1] == 0, seconds=40)
    assert_consistent(stack, key, load, answered(stack, before))
    assert live_counters(stack, key)[0] <= LIMIT


def others_of(stack: Stack, service: Service, gateway: GatewayProcess) -> list[tuple[int, Service, str]]:
    """Keys that are known to a gateway, and what it will say to them: its share is of what none of them has."""
    closed = factories.make_service(endpoint=stack.upstream_url)
    _, of_closed = factories.make_key(service=closed)
    _, budgeted = limited_key(service, budget_amount="100", budget_currency="USD", budget_period="month")
    forbidden, of_forbidden = limited_key(service)
    Entitlement.objects.filter(consumer=forbidden.consumer).update(tokens_per_month=0)
    found = [(503, closed, of_closed), (503, service, budgeted), (402, service, of_forbidden)]
    for status, one, text in found:
        answer = gateway.consume(one.id, text, {"prompt": "hello", "max_tokens": 5})
        assert answer.status_code == (200 if status == 503 else status)
    return found


def test_a_share_is_served_while_valkey_stalls_and_no_more(
    stack: Stack, start: START, service: Service
) -> None:
    key, text = limited_key(service)
    gateway = start()
    others = others_of(stack, service, gateway)
    before = set(stack.logged_calls())
    share = warm_up(stack, key, text, service, gateway)
    used, _ = live_counters(stack, key)
    # What one of two gateways may hold: half of what remained when it asked.
    assert LIMIT // 2 - 100 < share <= LIMIT // 2
    assert mode_of(gateway) == "normal"

    stack.valkey.pause()
    load = Load(gateway.url, service, text)
    load.run(5, at_once=5)
    assert load.statuses == {200: 5}
    assert mode_of(gateway) == "local"
    assert gateway.get("/health/ready").json()["dependencies"]["admission"] == "local"
    wait_for(lambda: used_up(load), seconds=30)
    more = {"prompt": "more", "max_tokens": 1000}
    refused = [gateway.consume(service.id, text, more, tries=1) for _ in range(10)]
    assert {(answer.status_code, answer.headers["Retry-After"]) for answer in refused} == {(503, "1")}
    # Nobody waits for a server that is known to be silent.
    assert min(answer.elapsed.total_seconds() for answer in refused) < 0.09
    for expected, one, of_other in others:
        answer = gateway.consume(one.id, of_other, {"prompt": "hello", "max_tokens": 5}, tries=1)
        assert answer.status_code == expected
    served = sum(document["usage"]["total_tokens"] for document in load.succeeded.values())
    assert share - 200 < served <= share

    stack.valkey.resume()
    wait_for(lambda: mode_of(gateway) == "normal", seconds=40)
    wait_for(lambda: live_counters(stack, key)[0] == used + served, seconds=40)
    assert gateway.consume(service.id, text, {"prompt": "back", "max_tokens": 5}).status_code == 200
    gateway.terminate()
    assert_counted(stack, key, load, before)


def test_two_gateways_never_exceed_the_limit_together(stack: Stack, start: START, service: Service) -> None:
    """Valkey is killed, and comes back with its file: what one has served is room that the other cannot have."""
    before = set(stack.logged_calls())
    key, text = limited_key(service)
    gateways = [start(), start()]
    warm_up(stack, key, text, service, *gateways)
    stack.valkey.kill()
    loads = [Load(gateway.url, service, text) for gateway in gateways]
    for load in loads:
        wait_for(lambda load=load: used_up(load), seconds=30)  # type: ignore[misc]
    locally = sum(len(load.succeeded) for load in loads)
    assert all(load.succeeded for load in loads)
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            most[0] = max(most[0], sum(live_counters(stack, key)))

    stack.valkey.start()
    watching = threading.Thread(target=watch)
    wait_for(lambda: all(mode_of(gateway) == "normal" for gateway in gateways), seconds=40)
    watching.start()
    for load in loads:
        load.run(60, at_once=10)
    wait_for(lambda: all(used_up(load) for load in loads), seconds=30)
    stop.set()
    watching.join()
    assert 0 < most[0] <= LIMIT
    assert sum(len(load.succeeded) for load in loads) > locally
    for gateway in gateways:
        gateway.terminate()
    both = Load("", service, text)
    both.succeeded = loads[0].succeeded | loads[1].succeeded
    assert_counted(stack, key, both, before)


def until_cut(gateway: GatewayProcess, service: Service, text: str) -> None:
    with pytest.raises(requests.ConnectionError):
        gateway.consume(service.id, text, {"prompt": "hang", "max_tokens": 5})


def test_a_gateway_killed_in_local_mode_loses_nothing(stack: Stack, start: START, service: Service) -> None:
    before = set(stack.logged_calls())
    key, text = limited_key(service)
    spool = str(stack.folder / f"spool-{uuid.uuid4()}")
    gateway = start(spool)
    warm_up(stack, key, text, service, gateway)
    stack.valkey.pause()
    load = Load(gateway.url, service, text)
    load.run(20, at_once=10)
    assert load.statuses == {200: 20}
    with hostile_upstream() as upstream:
        hanging = threading.Thread(target=until_cut, args=(gateway, service, text))
        service.endpoint = f"http://127.0.0.1:{upstream.server_address[1]}/hang"
        service.save()
        gateway.catch_up()
        hanging.start()
        wait_for(lambda: "consumption_open_calls 1.0" in gateway.get("/metrics").text)
        gateway.kill()
        hanging.join()
    stack.valkey.resume()
    successor = start(spool, gateway.port)
    wait_for(lambda: len(records(key)) == 22, seconds=40)
    open_ones = [row for row in records(key).values() if row.status == "unsettled"]
    assert [row.total_tokens for row in open_ones] == [0]
    successor.terminate()
    assert_counted(stack, key, load, before)
