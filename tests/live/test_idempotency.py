"""One upstream call and one charge under an ``Idempotency-Key``, whoever repeats it, and whatever dies meanwhile."""

import json
import socket
import struct
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any

import openai
import pytest
import requests
import urllib3
from django.db import connection, transaction

from consumption.models import IdempotencyClaim
from devstack.ports import free_port
from devstack.postgres import Postgres
from metering.models import UsageRecord
from tests import factories
from tests.harness import hostile
from tests.harness.waiting import wait_for
from tests.live.stack import TRIES, GatewayProcess, Stack, patiently
from tests.live.test_contract import assert_problem, counters, ledger_row

SECRET = "planted-prompt-4711"
BODY = {"prompt": SECRET, "max_tokens": 40}


class Market:
    """A service, a key of a consumer for it, and how its calls are made."""

    def __init__(self, gateway: GatewayProcess, endpoint: str, **fields: Any) -> None:
        self.gateway = gateway
        self.service = factories.make_service(endpoint=endpoint, **fields)
        self.key, self.text = factories.make_key(service=self.service)
        self.path = f"/api/v1/consume/{self.service.id}"
        self.known_to(gateway)

    def known_to(self, *gateways: GatewayProcess) -> None:
        """Wait until gateways know the service."""
        for gateway in gateways:
            gateway.wait_for_service(self.service.id, self.text)

    def post(
        self,
        idempotency_key: str | None,
        body: Any = BODY,
        *,
        path: str = "",
        text: str = "",
        gateway: GatewayProcess | None = None,
        tries: int = TRIES,
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {text or self.text}"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        url = (gateway or self.gateway).url + (path or self.path)
        return patiently(lambda: requests.post(url, json=body, headers=headers, timeout=40), tries=tries)

    def rows(self) -> list[UsageRecord]:
        return list(UsageRecord.objects.filter(api_key_id=self.key.id))

    def claims(self) -> int:
        return IdempotencyClaim.objects.filter(consumer_id=self.key.consumer_id).count()


def new_key() -> str:
    return f"order-{uuid.uuid4()}"


def assert_replayed(answer: requests.Response, first: requests.Response) -> None:
    assert answer.status_code == first.status_code, answer.text
    assert answer.content == first.content
    for name in ("X-Request-Id", "X-Cost", "Content-Type", "x-should-retry"):
        assert answer.headers.get(name) == first.headers.get(name)
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert "RateLimit-Remaining" not in answer.headers


@pytest.fixture
def market(gateway: GatewayProcess, stack: Stack) -> Market:
    return Market(gateway, stack.upstream_url)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with hostile.hostile_upstream() as server:
        yield server


def of(upstream: Any, behaviour: str) -> str:
    host, port = upstream.server_address
    return f"http://{host}:{port}/{behaviour}"


def test_a_duplicate_gets_the_same_answer_and_pays_nothing(market: Market, stack: Stack) -> None:
    before, key = len(stack.logged_calls()), new_key()
    first = market.post(key)
    assert first.status_code == 200
    for _ in range(3):
        assert_replayed(market.post(key), first)
    assert len(stack.logged_calls()) == before + 1
    row = ledger_row(first.headers["X-Request-Id"])
    assert market.rows() == [row]
    used = str(row.total_tokens).encode()
    assert counters(stack, market.key, market.service) == {b"used": used, b"reserved": b"0"}
    assert market.post(new_key()).headers["X-Request-Id"] != str(row.id)
    assert market.post(None).headers["X-Request-Id"] != str(row.id)
    assert market.claims() == 2


def test_a_duplicate_of_a_stream_gets_the_same_events(market: Market, stack: Stack) -> None:
    before, key = len(stack.logged_calls()), new_key()
    body = {**BODY, "stream": True}
    first = market.post(key, body)
    assert first.text.endswith("data: [DONE]\n\n")
    assert_replayed(market.post(key, body), first)
    assert len(stack.logged_calls()) == before + 1
    assert ledger_row(first.headers["X-Request-Id"]).status == "success"


def test_another_body_or_path_under_the_key_is_refused(market: Market, stack: Stack) -> None:
    key = new_key()
    first = market.post(key)
    other = Market(market.gateway, stack.upstream_url)
    _, text = factories.make_key(market.key.consumer, other.service)
    before = len(stack.logged_calls())
    refused = market.post(key, {**BODY, "max_tokens": 41})
    assert_problem(refused, 422, "idempotency_key_reused")
    assert SECRET not in refused.text
    assert_problem(market.post(key, path=other.path, text=text), 422, "idempotency_key_reused")
    told = market.post(
        key, {"model": other.service.name, "prompt": SECRET}, path="/v1/completions", text=text
    )
    assert (told.status_code, told.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert len(stack.logged_calls()) == before
    assert_replayed(market.post(key), first)


def test_two_consumers_with_one_key_do_not_meet(market: Market) -> None:
    key = new_key()
    other, text = factories.make_key(service=market.service)
    first, second = market.post(key), market.post(key, text=text)
    assert first.headers["X-Request-Id"] != second.headers["X-Request-Id"]
    assert ledger_row(second.headers["X-Request-Id"]).consumer_id == other.consumer_id
    assert_replayed(market.post(key, text=text), second)
    assert_replayed(market.post(key), first)


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "tab\tbed", "\u00fc"])
def test_a_key_that_is_none_is_refused(market: Market, stack: Stack, key: str) -> None:
    before = len(stack.logged_calls())
    answer = market.post(key.encode("latin-1"))  # type: ignore[arg-type]  # as it goes over the wire
    assert_problem(answer, 400, "malformed_request")
    assert len(stack.logged_calls()) == before
    assert market.claims() == 0


def test_a_key_may_have_255_characters(market: Market) -> None:
    key = new_key().ljust(255, "~")
    first = market.post(key)
    assert_replayed(market.post(key), first)


def test_a_key_that_comes_twice_is_one_list(market: Market) -> None:
    key, url = new_key(), market.gateway.url + market.path
    headers = urllib3.HTTPHeaderDict({"Authorization": f"Bearer {market.text}", "Idempotency-Key": key})
    headers.add("Idempotency-Key", "b")
    twice = urllib3.request("POST", url, body=json.dumps(BODY).encode(), headers=headers, timeout=20)
    assert twice.status == 200
    listed = market.post(f"{key},b")
    assert listed.headers["Idempotent-Replayed"] == "true"
    assert listed.headers["X-Request-Id"] == twice.headers["X-Request-Id"]


def test_a_refusal_leaves_no_claim(market: Market) -> None:
    key = new_key()
    restricted = {**BODY, "metadata": {"data_classification": "restricted"}}
    assert_problem(market.post(key, restricted), 403, "policy_violation")
    assert_problem(market.post(key, {"prompt": ""}), 422, "invalid_field")
    assert market.claims() == 0
    assert market.post(key).status_code == 200


def test_a_refusal_by_a_limit_leaves_no_claim(gateway: GatewayProcess, stack: Stack) -> None:
    market = Market(gateway, stack.upstream_url)
    _, text = factories.make_key(service=market.service, tier="basic")
    key = new_key()
    assert_problem(market.post(key, {**BODY, "max_tokens": 200_000}, text=text), 402, "quota_exceeded")
    assert market.post(key, text=text).status_code == 200


def test_openai_errors_are_in_its_own_form(market: Market) -> None:
    client = openai.OpenAI(base_url=f"{market.gateway.url}/v1", api_key=market.text, max_retries=0)
    headers = {"Idempotency-Key": new_key()}

    def create(text: str) -> Any:
        return client.chat.completions.with_raw_response.create(
            model=market.service.name, messages=[{"role": "user", "content": text}], extra_headers=headers
        )

    first, second = create("Hello"), create("Hello")
    assert second.headers["idempotent-replayed"] == "true"
    assert second.headers["x-request-id"] == first.headers["x-request-id"]
    assert second.parse() == first.parse()
    with pytest.raises(openai.UnprocessableEntityError) as reused:
        create("Good bye")
    assert reused.value.code == "idempotency_key_reused"


def test_anthropic_callers_have_the_same_and_their_own_form(market: Market, stack: Stack) -> None:
    body = {"model": market.service.name, "max_tokens": 20, "messages": [{"role": "user", "content": SECRET}]}
    before, key = len(stack.logged_calls()), new_key()
    first = market.post(key, body, path="/v1/messages")
    assert first.status_code == 200, first.text
    again = market.post(key, body, path="/v1/messages")
    assert_replayed(again, first)
    assert again.headers["request-id"] == first.headers["request-id"] == first.headers["X-Request-Id"]
    assert len(stack.logged_calls()) == before + 1
    elsewhere = market.post(key, body, path="/v1/chat/completions")
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (422, "idempotency_key_reused")
    other = market.post(key, {**body, "max_tokens": 21}, path="/v1/messages")
    assert (other.status_code, other.json()["type"]) == (422, "error")
    assert len(stack.logged_calls()) == before + 1


# -- at the same moment ------------------------------------------------------------------------------------------------


def test_fifty_duplicates_at_two_gateways_are_one_call(
    stack: Stack, lane_gateway: GatewayProcess, view_gateway: GatewayProcess
) -> None:
    gateways = (lane_gateway, view_gateway)
    market = Market(lane_gateway, stack.upstream_url)
    market.known_to(*gateways)
    before, key, barrier = len(stack.logged_calls()), new_key(), threading.Barrier(50)

    def call(number: int) -> requests.Response:
        barrier.wait()
        return market.post(key, gateway=gateways[number % 2])

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(call, range(50)))
    assert len(stack.logged_calls()) == before + 1
    served = [answer for answer in answers if answer.status_code == 200]
    originals = [answer for answer in served if "Idempotent-Replayed" not in answer.headers]
    assert len(originals) == 1
    for answer in answers:
        assert answer.headers["X-Request-Id"] == originals[0].headers["X-Request-Id"]
        if answer.status_code != 200:
            assert_problem(answer, 409, "idempotency_in_flight")
            assert answer.headers["Retry-After"] == "1"
    assert len({answer.content for answer in served}) == 1

    row = ledger_row(originals[0].headers["X-Request-Id"])
    used = str(row.total_tokens).encode()
    # Who was late gives back what it had reserved.
    wait_for(lambda: counters(stack, market.key, market.service) == {b"used": used, b"reserved": b"0"})
    assert market.rows() == [row]
    assert_replayed(market.post(key), originals[0])


def test_while_the_first_call_runs_its_duplicates_are_told_so(gateway: GatewayProcess, upstream: Any) -> None:
    market = Market(gateway, of(upstream, "waits"))
    key = new_key()
    upstream.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(market.post, key)
        wait_for(lambda: market.claims() == 1)
        duplicate = market.post(key)
        upstream.may_answer.set()
        first = running.result()
    assert_problem(duplicate, 409, "idempotency_in_flight")
    assert duplicate.headers["Retry-After"] == "1"
    assert "x-should-retry" not in duplicate.headers
    assert duplicate.headers["X-Request-Id"] == first.headers["X-Request-Id"]
    assert first.status_code == 200
    assert_replayed(market.post(key), first)
    assert len(market.rows()) <= 1


def test_a_client_that_waits_and_repeats_gets_the_answer(gateway: GatewayProcess, stack: Stack) -> None:
    """OpenAI's client repeats a 409 by itself, under the key that it was given."""
    market = Market(gateway, stack.start_slow_upstream(latency_ms=700))
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=market.text, max_retries=5)
    headers = {"Idempotency-Key": new_key()}

    def create(_: int) -> Any:
        return client.chat.completions.create(
            model=market.service.name, messages=[{"role": "user", "content": "Hello"}], extra_headers=headers
        )

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(create, range(3)))
    assert answers[0] == answers[1] == answers[2]
    wait_for(lambda: len(market.rows()) == 1)


# -- what upstreams do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "status"), [("fails", 502), ("reset", 502), ("hang", 504), ("refuses", 422)]
)
def test_a_failure_of_an_upstream_that_was_reached_is_the_outcome(
    gateway: GatewayProcess, stack: Stack, upstream: Any, behaviour: str, status: int
) -> None:
    market = Market(gateway, of(upstream, behaviour), deadline_seconds=1)
    before, key = len(upstream.calls), new_key()
    first = market.post(key)
    assert first.status_code == status
    assert_replayed(market.post(key), first)
    assert upstream.calls[before:] == [behaviour]
    assert ledger_row(first.headers["X-Request-Id"]).status == "error"


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [("no-connection", 502, "upstream_failed"), ("busy", 503, "upstream_busy")],
)
def test_a_call_that_nobody_worked_on_may_be_made_again_under_its_key(
    gateway: GatewayProcess, stack: Stack, upstream: Any, behaviour: str, status: int, code: str
) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}/v1" if behaviour == "no-connection" else of(upstream, "busy")
    market = Market(gateway, endpoint)
    key = new_key()
    first = market.post(key)
    assert_problem(first, status, code)
    assert market.claims() == 0
    market.service.endpoint = stack.upstream_url
    market.service.save()
    gateway.catch_up()
    second = market.post(key)
    assert second.status_code == 200
    assert_replayed(market.post(key), second)
    assert ledger_row(first.headers["X-Request-Id"]).cost_amount == 0
    assert ledger_row(second.headers["X-Request-Id"]).status == "success"


def test_a_stream_that_broke_off_breaks_off_again(gateway: GatewayProcess, upstream: Any) -> None:
    market = Market(gateway, of(upstream, "stream-cut"))
    body, before, key = {**BODY, "stream": True}, len(upstream.calls), new_key()
    first = market.post(key, body)
    assert "[DONE]" not in first.text
    assert '"code":"upstream_failed"' in first.text
    assert_replayed(market.post(key, body), first)
    assert len(upstream.calls) == before + 1


def test_a_stream_whose_client_went_away_is_over(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any
) -> None:
    market = Market(lane_gateway, of(upstream, "stream-hang"))
    body, before, key = {**BODY, "stream": True}, len(upstream.calls), new_key()
    abandon(market, key, body)
    wait_for(lambda: len(market.rows()) == 1)
    told = market.post(key, body)
    assert_problem(told, 409, "idempotency_outcome_only")
    assert told.json()["outcome"] == "cancelled"
    assert told.headers["X-Request-Id"] == str(market.rows()[0].id)
    assert len(upstream.calls) == before + 1


def abandon(market: Market, key: str, body: Any) -> None:
    """Call, see the answer begin, and reset the connection."""
    headers = {"Authorization": f"Bearer {market.text}", "Idempotency-Key": key}
    url = market.gateway.url + market.path
    with patiently(lambda: requests.post(url, json=body, headers=headers, stream=True, timeout=20)) as answer:
        assert answer.status_code == 200
        assert answer.raw.read(1)
        connection = socket.socket(fileno=socket.dup(answer.raw.fileno()))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def test_of_an_answer_that_is_too_large_the_outcome_is_told(stack: Stack) -> None:
    gateway = stack.start_gateway(
        IDEMPOTENCY_MAX_ANSWER_BYTES="20", SPOOL_DIR=str(stack.folder / f"spool-{uuid.uuid4()}")
    )
    market = Market(gateway, stack.upstream_url)
    for body in (BODY, {**BODY, "stream": True}):
        before, key = len(stack.logged_calls()), new_key()
        first = market.post(key, body)
        assert first.status_code == 200
        told = market.post(key, body)
        assert_problem(told, 409, "idempotency_outcome_only")
        assert told.json()["outcome"] == "success"
        assert told.headers["x-should-retry"] == "false"
        assert "Retry-After" not in told.headers
        assert told.headers["X-Request-Id"] == told.json()["request_id"] == first.headers["X-Request-Id"]
        assert len(stack.logged_calls()) == before + 1
    gateway.terminate()


# -- what dies ---------------------------------------------------------------------------------------------------------


def test_a_killed_gateways_call_is_in_flight_until_the_ledger_has_its_outcome(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any
) -> None:
    spool = str(stack.folder / f"spool-{uuid.uuid4()}")
    doomed = stack.start_gateway(SPOOL_DIR=spool)
    market = Market(doomed, of(upstream, "hang"))
    market.known_to(lane_gateway)
    key = new_key()
    caller = threading.Thread(target=attempt, args=(market, key))
    caller.start()
    wait_for(lambda: market.claims() == 1)
    doomed.kill()
    caller.join()
    waiting = market.post(key, gateway=lane_gateway)
    assert_problem(waiting, 409, "idempotency_in_flight")

    # The next life of the gateway ends what the last one left open.
    stack.start_gateway(port=doomed.port, SPOOL_DIR=spool)
    wait_for(
        lambda: market.post(key, gateway=lane_gateway).json()["code"] == "idempotency_outcome_only",
        seconds=40,
    )
    told = market.post(key, gateway=lane_gateway)
    assert_problem(told, 409, "idempotency_outcome_only")
    assert told.json()["outcome"] == "unsettled"
    assert told.headers["x-should-retry"] == "false"
    (row,) = market.rows()
    assert told.headers["X-Request-Id"] == waiting.headers["X-Request-Id"] == str(row.id)
    assert row.status == "unsettled"
    doomed.terminate()


def attempt(market: Market, key: str) -> None:
    try:
        market.post(key)
    except requests.RequestException:
        return


def test_after_valkey_lost_everything_no_call_is_made_again(
    stack: Stack, lane_gateway: GatewayProcess, view_gateway: GatewayProcess
) -> None:
    market = Market(lane_gateway, stack.upstream_url)
    key = new_key()
    first = market.post(key)
    assert first.status_code == 200, first.text
    row = ledger_row(first.headers["X-Request-Id"])
    before = len(stack.logged_calls())
    stack.valkey_client().flushall()
    answers: list[requests.Response] = []

    def is_over() -> bool:
        answers.append(market.post(key, tries=1))
        return bool(answers[-1].json()["code"] == "idempotency_outcome_only")

    wait_for(is_over, seconds=40)
    codes = Counter(answer.json()["code"] for answer in answers)
    assert set(codes) <= {"idempotency_in_flight", "idempotency_outcome_only", "unavailable"}
    assert answers[-1].json()["outcome"] == "success"
    assert answers[-1].headers["X-Request-Id"] == str(row.id)
    assert len(stack.logged_calls()) == before
    assert market.rows() == [row]
    for gateway in (lane_gateway, view_gateway):
        wait_for(partial(serves, market, gateway))


def serves(market: Market, gateway: GatewayProcess) -> bool:
    return market.post(None, gateway=gateway).status_code == 200


def test_without_postgresql_only_calls_with_a_key_wait(stack: Stack, postgres_server: Postgres) -> None:
    gateway = stack.start_gateway(SPOOL_DIR=str(stack.folder / f"spool-{uuid.uuid4()}"))
    market = Market(gateway, stack.upstream_url)
    key = new_key()
    assert market.post(None).status_code == 200
    before = len(stack.logged_calls())
    postgres_server.pause()
    try:
        refused = market.post(key, tries=1)
        assert market.post(None).status_code == 200
    finally:
        postgres_server.resume()
    assert_problem(refused, 503, "unavailable")
    assert refused.headers["Retry-After"] == "1"
    assert len(stack.logged_calls()) == before + 1
    wait_for(lambda: market.post(key).status_code == 200)
    assert len(stack.logged_calls()) == before + 2
    gateway.terminate()


def test_a_claim_that_came_too_late_is_given_back(gateway: GatewayProcess, stack: Stack) -> None:
    market = Market(gateway, stack.upstream_url)
    before, key = len(stack.logged_calls()), new_key()
    with transaction.atomic(), connection.cursor() as cursor:
        # Others may read and not write: a call is let in, and then cannot say that it has the key.
        cursor.execute("LOCK TABLE idempotency_claims IN SHARE MODE")
        refused = market.post(key, tries=1)
    assert_problem(refused, 503, "unavailable")
    assert refused.headers["Retry-After"] == "1"
    assert len(stack.logged_calls()) == before
    wait_for(lambda: market.post(key).status_code == 200)
    assert len(stack.logged_calls()) == before + 1
    row = ledger_row(refused.headers["X-Request-Id"])
    assert (row.status, row.error, row.cost_amount) == ("error", {"code": "unavailable"}, Decimal(0))
    wait_for(lambda: counters(stack, market.key, market.service)[b"reserved"] == b"0")


def test_no_key_and_no_answer_is_stored_in_the_clear(market: Market, stack: Stack) -> None:
    key = new_key()
    first = market.post(key)
    assert first.status_code == 200
    client = stack.valkey_client()
    name = next(client.scan_iter(f"*:idem:{first.headers['X-Request-Id']}"))
    assert name.startswith(b"{s")
    stored: Any = client.get(name)
    assert stored
    assert 86_000 < client.ttl(name) <= 86_400
    claim = IdempotencyClaim.objects.get(consumer_id=market.key.consumer_id)
    kept = bytes(claim.key_hash) + bytes(claim.digest) + stored + name
    for secret in (key, SECRET, json.loads(first.text)["response"]["choices"][0]["text"]):
        assert secret.encode() not in kept
