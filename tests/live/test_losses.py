"""Valkey loses what it had: every call that was answered is in the ledger once, and no limit is overspent."""

import contextlib
import shutil
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from catalog.models import Entitlement, Service
from keys.models import ApiKey
from metering import shards
from metering.models import Gateway
from tests import factories
from tests.harness import hostile
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack
from tests.live.test_faults import (
    Load,
    answered,
    assert_consistent,
    live_counters,
    open_stream,
    records,
)

LIMIT = 20_000


@pytest.fixture
def service(stack: Stack) -> Service:
    return factories.make_service(endpoint=stack.upstream_url)


@pytest.fixture
def market(service: Service) -> tuple[ApiKey, str]:
    key, text = factories.make_key(service=service)
    Entitlement.objects.filter(consumer=key.consumer).update(tokens_per_month=LIMIT)
    return key, text


def slot(stack: Stack) -> str:
    return str(stack.folder / f"spool-{uuid.uuid4()}")


def metric(gateway: GatewayProcess, name: str) -> float:
    (line,) = [line for line in gateway.get("/metrics").text.splitlines() if line.startswith(name + " ")]
    return float(line.rpartition(" ")[2])


@contextlib.contextmanager
def under_load(*loads: Load) -> Iterator[None]:
    """Calls go on meanwhile, answered or not."""
    stop = threading.Event()

    def go_on(load: Load) -> None:
        while not stop.is_set():
            load.run(10, at_once=5, tries=5)

    threads = [threading.Thread(target=go_on, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def never_above_the_limit(stack: Stack, key: ApiKey) -> Iterator[None]:
    """I3, at every moment sampled."""
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.005):
            with contextlib.suppress(Exception):
                most[0] = max(most[0], sum(live_counters(stack, key)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        stop.set()
        watching.join()
    assert 0 < most[0] <= LIMIT


def both(service: Service, text: str, *loads: Load) -> Load:
    found = Load("", service, text)
    for load in loads:
        found.succeeded |= load.succeeded
    return found


def use_up(load: Load) -> None:
    """Until the quota lets nothing in any more."""
    while True:
        before = len(load.succeeded)
        load.run(20, at_once=10)
        if len(load.succeeded) == before:
            return


def test_calls_that_no_drain_has_seen_outlive_valkeys_data(
    stack: Stack, lane_gateway: GatewayProcess, service: Service, market: tuple[ApiKey, str]
) -> None:
    """Of two gateways, one of them with hardly any memory for it; and of a third that was stopped before."""
    (key, text), before = market, set(stack.logged_calls())
    spool = slot(stack)
    gateways = [
        stack.start_gateway(SPOOL_DIR=slot(stack), RETAINED_MOST_BYTES="20000"),
        lane_gateway,
    ]
    stopped = stack.start_gateway(SPOOL_DIR=spool)
    loads = [Load(gateway.url, service, text) for gateway in (*gateways, stopped)]
    with hostile.hostile_upstream() as upstream:
        streaming = factories.make_service(
            endpoint=f"http://127.0.0.1:{upstream.server_address[1]}/stream-held"
        )
        of_stream, stream_text = factories.make_key(service=streaming)
        gateways[1].wait_for_service(streaming.id, stream_text)
        loads[2].run(5)
        with stack.drain_held():
            for load, calls in zip(loads, (160, 140, 30), strict=True):
                load.run(calls, at_once=10)
            stopped.terminate()
            wait_for(lambda: not stopped.child.running)
            row = Gateway.objects.filter(spooled__gte=30, ended_at=None).get()
            assert row.oldest_open is not None
            successor = stack.start_gateway(SPOOL_DIR=spool)
            stream = open_stream(gateways[1], streaming, stream_text)
            assert metric(gateways[0], "consumption_retained_bytes") <= 30_000
            assert metric(gateways[0], 'consumption_retained_records{held="disk"}') > 100
            assert metric(gateways[1], 'consumption_retained_records{held="memory"}') >= 140
            answered_before = sum(len(load.succeeded) for load in loads)
            assert answered_before >= 330
            assert len(records(key)) <= 5
            with under_load(*loads[:2]):
                time.sleep(0.2)
                stack.valkey.kill()
                stack.valkey.erase()
                stack.valkey.start()
        wait_for(
            lambda: all(gateway.get("/health/ready").status_code == 200 for gateway in gateways), seconds=40
        )
        client = stack.valkey_client()
        assert client.hlen(shards.leases_key(shards.shard_of(of_stream.consumer_id))) == 1
        assert live_counters(stack, of_stream)[1] > 0
        hostile.MAY_END.set()
        assert stream.text.endswith("data: [DONE]\n\n")
    wait_for(lambda: records(of_stream))
    (record,) = records(of_stream).values()
    assert (record.status, record.total_tokens, record.settlement) == ("success", 17, "lease")
    assert live_counters(stack, of_stream) == (17, 0)

    with never_above_the_limit(stack, key):
        use_up(loads[1])
    wait_for(lambda: live_counters(stack, key)[1] == 0)
    assert_consistent(stack, key, both(service, text, *loads), answered(stack, before))
    assert {row.status for row in records(key).values()} == {"success"}
    assert live_counters(stack, key)[0] <= LIMIT
    for gateway in (gateways[0], successor):
        wait_for(lambda gateway=gateway: metric(gateway, "consumption_retained_bytes") == 0)  # type: ignore[misc]
        gateway.terminate()
    wait_for(lambda: Gateway.objects.get(id=row.id).ended_at is not None)


def test_older_files_of_valkey_are_made_up_for(
    stack: Stack, lane_gateway: GatewayProcess, service: Service, market: tuple[ApiKey, str]
) -> None:
    """As after a loss of power: what is in the ledger, what is in the file alone, and what is nowhere any more."""
    (key, text), before = market, set(stack.logged_calls())
    load = Load(lane_gateway.url, service, text)
    load.run(50)
    wait_for(lambda: len(records(key)) == 50)
    with stack.drain_held():
        load.run(100)
        stack.valkey_client().execute_command("WAITAOF", 1, 0, 5000)  # type: ignore[no-untyped-call]
        older = stack.valkey.folder / "older"
        shutil.copytree(stack.valkey.data, older)
        load.run(150)
        with under_load(load):
            time.sleep(0.1)
            stack.valkey.kill()
            shutil.rmtree(stack.valkey.data)
            older.rename(stack.valkey.data)
            stack.valkey.start()
        assert len(load.succeeded) >= 300
    wait_for(lambda: lane_gateway.get("/health/ready").status_code == 200)
    with never_above_the_limit(stack, key):
        use_up(load)
    wait_for(lambda: live_counters(stack, key)[1] == 0)
    assert_consistent(stack, key, load, answered(stack, before))
    assert live_counters(stack, key)[0] <= LIMIT
