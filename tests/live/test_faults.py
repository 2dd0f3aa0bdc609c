"""Killing things under load: every call the upstream answered is in the ledger, once, with its tokens."""

import threading
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import requests
from django.db.models import Sum

from catalog.models import Service
from keys.models import ApiKey
from metering import shards
from metering.models import Gateway, QuotaPeriod, UsageRecord, UsageRollup
from tests import factories
from tests.harness.hostile import hostile_upstream
from tests.harness.waiting import wait_at_most, wait_for
from tests.live.stack import TRIES, GatewayProcess, Stack, answers, patiently

RATE = Decimal("0.0001")


class Load:
    """Calls from many threads, each answer kept by its request id. Without a gateway it holds what others called."""

    def __init__(self, gateway_url: str, service: Service, text: str) -> None:
        self._url = f"{gateway_url}/api/v1/consume/{service.id}"
        self._headers = {"Authorization": f"Bearer {text}"}
        self._local = threading.local()
        self.statuses: Counter[int] = Counter()
        self.succeeded: dict[str, dict[str, Any]] = {}
        if gateway_url:  # it may hear of the service a moment after that was made
            models = f"{gateway_url}/v1/models"
            wait_for(lambda: str(service.id) in requests.get(models, headers=self._headers, timeout=10).text)

    def call(self, number: int, *, tries: int = TRIES) -> None:
        body = {"prompt": f"Question {number}: " + "why " * (number % 17), "max_tokens": 40}
        try:
            session = self._session()
            answer = patiently(
                lambda: session.post(self._url, json=body, headers=self._headers, timeout=40), tries=tries
            )
        except requests.RequestException:
            self.statuses[0] += 1
            return
        self.statuses[answer.status_code] += 1
        if answer.status_code == 200:
            document = answer.json()
            self.succeeded[document["request_id"]] = document

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        session: requests.Session = self._local.session
        return session

    def run(self, calls: int, *, at_once: int = 50, tries: int = TRIES) -> None:
        """``tries``: fewer where calls are to be refused."""
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(partial(self.call, tries=tries), range(calls)))


def records(key: ApiKey) -> dict[str, UsageRecord]:
    return {str(row.id): row for row in UsageRecord.objects.filter(api_key_id=key.id)}


def answered(stack: Stack, before: set[str]) -> dict[str, dict[str, Any]]:
    """What the upstream has answered since ``before``."""
    return {id_: call for id_, call in stack.logged_calls().items() if id_ not in before}


def assert_consistent(stack: Stack, key: ApiKey, load: Load, calls: dict[str, dict[str, Any]]) -> None:
    """I1, I2 and I4 of one key's calls, once the ledger has all that there is of them."""
    wait_for(lambda: set(calls) <= set(records(key)), seconds=60)
    journal, client = shards.journal_key(shards.shard_of(key.consumer_id)), stack.valkey_client()
    wait_for(lambda: client.xlen(journal) == 0, seconds=60)
    rows = records(key)
    total = sum(row.total_tokens for row in rows.values())
    for id_, document in load.succeeded.items():
        row = rows[id_]
        assert (row.status, row.total_tokens) == ("success", document["usage"]["total_tokens"])
        assert row.total_tokens == calls[id_]["total_tokens"]
        assert row.cost_amount == RATE * row.total_tokens
    for id_, row in rows.items():
        if row.status == "success":
            assert row.total_tokens == calls[id_]["total_tokens"]
    rollups = UsageRollup.objects.filter(api_key_id=key.id).aggregate(Sum("requests"), Sum("total_tokens"))
    assert rollups == {"requests__sum": len(rows), "total_tokens__sum": total}
    assert QuotaPeriod.objects.get(consumer_id=key.consumer_id).used == total
    assert live_counters(stack, key) == (total, 0)


def live_counters(stack: Stack, key: ApiKey) -> tuple[int, int]:
    client = stack.valkey_client()
    (name,) = client.scan_iter(f"*:quota:{key.consumer_id}:*")
    used, reserved = client.hmget(name, "used", "reserved")
    return int(used or 0), int(reserved or 0)


@pytest.fixture
def service(stack: Stack) -> Service:
    return factories.make_service(endpoint=stack.upstream_url)


def test_a_thousand_calls_are_a_thousand_records(
    stack: Stack, lane_gateway: GatewayProcess, service: Service
) -> None:
    key, text = factories.make_key(service=service)
    before = set(stack.logged_calls())
    load = Load(lane_gateway.url, service, text)
    load.run(1000)
    assert load.statuses == {200: 1000}
    wait_at_most(lambda: UsageRecord.objects.filter(api_key_id=key.id).count() == 1000, seconds=2)
    calls = answered(stack, before)
    assert len(calls) == 1000
    assert_consistent(stack, key, load, calls)
    sums = UsageRecord.objects.filter(api_key_id=key.id).aggregate(Sum("total_tokens"), Sum("cost_amount"))
    tokens = sum(call["total_tokens"] for call in calls.values())
    assert sums == {"total_tokens__sum": tokens, "cost_amount__sum": RATE * tokens}


def test_a_killed_gateway_loses_no_call(stack: Stack, service: Service) -> None:
    key, text = factories.make_key(service=service)
    before = set(stack.logged_calls())
    spool = str(stack.folder / f"spool-{uuid.uuid4()}")
    gateway = stack.start_gateway(SPOOL_DIR=spool)
    load = Load(gateway.url, service, text)

    def kill_under_load() -> None:
        wait_for(lambda: len(load.succeeded) >= 100, seconds=60)
        gateway.kill()

    killer = threading.Thread(target=kill_under_load)
    killer.start()
    load.run(1500)
    killer.join()
    assert load.statuses[0] > 0
    stack.start_gateway(port=gateway.port, SPOOL_DIR=spool)

    # The next life of the gateway ends what the last one left open: nobody waits for a lease to run out.
    wait_for(lambda: live_counters(stack, key)[1] == 0, seconds=40)
    assert_consistent(stack, key, load, answered(stack, before))
    unsettled = [row for row in records(key).values() if row.status == "unsettled"]
    assert len(unsettled) <= 50
    assert all(row.settlement == "reaped" and row.cost_amount == 0 for row in unsettled)


def test_a_killed_drain_loses_and_doubles_nothing(
    stack: Stack, lane_gateway: GatewayProcess, service: Service
) -> None:
    key, text = factories.make_key(service=service)
    before = set(stack.logged_calls())
    load = Load(lane_gateway.url, service, text)
    loading = threading.Thread(target=load.run, args=(2000,))
    loading.start()
    kills = 0
    # From this thread: a child dies with the thread that started it.
    while loading.is_alive() or kills < 2:
        loading.join(0.9 + kills * 0.13)
        stack.drain.kill()
        stack.drain.start()
        kills += 1
    loading.join()
    assert load.statuses == {200: 2000}
    assert_consistent(stack, key, load, answered(stack, before))


def twenty_open_calls(
    stack: Stack, service: Service, upstream: Any
) -> tuple[ApiKey, Load, threading.Thread, GatewayProcess]:
    """A gateway that has served a key's call, and twenty more of it that wait until the upstream may answer."""
    service.endpoint = f"http://127.0.0.1:{upstream.server_address[1]}/waits"
    service.save()
    key, text = factories.make_key(service=service)
    gateway = stack.start_gateway(SPOOL_DIR=str(stack.folder / f"spool-{uuid.uuid4()}"))
    upstream.may_answer.set()
    assert gateway.consume(service.id, text, {"prompt": "warm up", "max_tokens": 5}).status_code == 200
    upstream.may_answer.clear()
    load = Load(gateway.url, service, text)
    loading = threading.Thread(target=load.run, args=(20,), kwargs={"at_once": 20})
    loading.start()
    wait_for(lambda: len(upstream.calls) == 21)
    return key, load, loading, gateway


def test_calls_are_answered_and_kept_while_valkey_stalls(stack: Stack, service: Service) -> None:
    """A settle that Valkey does not answer is on the local disk before the caller hears of it."""
    with hostile_upstream() as upstream:
        key, load, loading, _ = twenty_open_calls(stack, service, upstream)
        stack.valkey.pause()
        upstream.may_answer.set()
        loading.join()
        stack.valkey.resume()
    assert load.statuses == {200: 20}

    wait_for(lambda: set(load.succeeded) <= set(records(key)), seconds=40)
    rows = records(key)
    assert len(rows) == 21
    for id_, document in load.succeeded.items():
        assert (rows[id_].status, rows[id_].total_tokens) == ("success", document["usage"]["total_tokens"])
    wait_for(lambda: live_counters(stack, key)[1] == 0)
    assert live_counters(stack, key) == (sum(row.total_tokens for row in rows.values()), 0)


def test_a_restarted_valkey_with_its_data_goes_on_by_itself(stack: Stack, service: Service) -> None:
    key, text = factories.make_key(service=service)
    gateway = stack.start_gateway(SPOOL_DIR=str(stack.folder / f"spool-{uuid.uuid4()}"))
    load = Load(gateway.url, service, text)
    load.run(50)
    assert load.statuses == {200: 50}
    stack.valkey.kill()
    refused = gateway.consume(service.id, text, {"prompt": "hello"}, tries=1)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    stack.valkey.start()
    wait_for(lambda: gateway.consume(service.id, text, {"prompt": "hello"}).status_code == 200, seconds=40)
    wait_for(lambda: UsageRecord.objects.filter(api_key_id=key.id, status="success").count() == 51)
    total = sum(row.total_tokens for row in records(key).values())
    # Of a call that came too early, and was let in without being told, the reservation is given back.
    wait_for(lambda: live_counters(stack, key) == (total, 0))


def open_stream(gateway: GatewayProcess, service: Service, text: str) -> requests.Response:
    """A stream of which something has come."""
    url, headers = f"{gateway.url}/api/v1/consume/{service.id}", {"Authorization": f"Bearer {text}"}
    body = {"prompt": "go on", "stream": True}
    return patiently(lambda: requests.post(url, json=body, headers=headers, stream=True, timeout=40))


def test_a_gateway_is_ready_again_once_valkey_keeps_what_it_is_told(
    stack: Stack, lane_gateway: GatewayProcess
) -> None:
    """Without an append-only file it could lose usage; nothing has to be connected anew for it to be found safe."""
    client = stack.valkey_client()
    client.config_set("appendonly", "no")
    try:
        client.client_kill_filter(_type="normal", skipme=True)
        wait_for(lambda: "append-only" in lane_gateway.get("/health/ready").json()["dependencies"]["valkey"])
        assert lane_gateway.get("/health/ready").status_code == 503
    finally:
        client.config_set("appendonly", "yes")
    wait_for(lambda: lane_gateway.get("/health/ready").status_code == 200)


def test_a_stopping_gateway_lets_open_streams_end(stack: Stack, service: Service) -> None:
    with hostile_upstream() as upstream:
        service.endpoint = f"http://127.0.0.1:{upstream.server_address[1]}/stream-slowly"
        service.save()
        key, text = factories.make_key(service=service)
        gateway = stack.start_gateway(SPOOL_DIR=str(stack.folder / f"spool-{uuid.uuid4()}"))
        streams = [open_stream(gateway, service, text) for _ in range(20)]
        gateway.terminate()
        ends = [stream.text for stream in streams]
    assert all(end.endswith("data: [DONE]\n\n") for end in ends)
    assert all(end.count("one ") == 10 for end in ends)
    wait_for(lambda: not gateway.child.running)
    wait_for(lambda: len(records(key)) == 20)
    assert {(row.status, row.total_tokens) for row in records(key).values()} == {("success", 17)}
    assert live_counters(stack, key) == (20 * 17, 0)


def test_a_stream_that_outlives_the_limit_is_cut_and_charged_for_what_it_gave(
    stack: Stack, service: Service
) -> None:
    with hostile_upstream() as upstream:
        service.endpoint = f"http://127.0.0.1:{upstream.server_address[1]}/stream-hang"
        service.on_client_gone = "drain"  # a server that stops drains nothing
        service.save()
        key, text = factories.make_key(service=service)
        spool = str(stack.folder / f"spool-{uuid.uuid4()}")
        gateway = stack.start_gateway(SPOOL_DIR=spool, drain_seconds=1)
        stream = open_stream(gateway, service, text)
        gateway.terminate()
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            stream.content  # noqa: B018 - cut off, and not to be taken for whole
    wait_for(lambda: len(records(key)) == 1)
    (row,) = records(key).values()
    assert (row.status, row.usage["completion_tokens"], row.settlement) == ("cancelled", 9, "lease")
    assert live_counters(stack, key) == (row.total_tokens, 0)


def test_a_stopping_gateway_ends_its_calls_first(stack: Stack, service: Service) -> None:
    with hostile_upstream() as upstream:
        key, load, loading, gateway = twenty_open_calls(stack, service, upstream)
        gateway.terminate()
        wait_for(lambda: not answers(f"{gateway.url}/health/ready"))
        upstream.may_answer.set()
        loading.join()
    assert load.statuses == {200: 20}
    wait_for(lambda: len(records(key)) == 21)
    assert {row.settlement for row in records(key).values()} == {"lease"}


def gateway_rows() -> list[Gateway]:
    return list(Gateway.objects.order_by("started_at"))


def test_a_killed_gateway_stays_on_the_register_until_its_slot_is_taken_over(stack: Stack) -> None:
    """In a spool folder of its own, so that no other gateway of the stack takes it over."""
    spool = str(stack.folder / "spool-of-the-register")
    before = {row.id for row in gateway_rows()}
    first = stack.start_gateway(SPOOL_DIR=spool)
    (row,) = [row for row in gateway_rows() if row.id not in before]
    assert (row.ended_at, row.spooled, row.oldest_open) == (None, 0, None)
    first.kill()
    assert Gateway.objects.get(id=row.id).ended_at is None

    second = stack.start_gateway(SPOOL_DIR=spool)
    again = Gateway.objects.get(id=row.id)
    assert again.started_at > row.started_at
    second.terminate()
    wait_for(lambda: Gateway.objects.get(id=row.id).ended_at is not None)
    assert {row.id for row in gateway_rows()} == before | {row.id}
