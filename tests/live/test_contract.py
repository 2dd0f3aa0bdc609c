"""The contract of ``POST /consume``, over both transports, against real servers and a real upstream."""

import datetime as dt
import json
import socket
import time
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import pytest
import requests

from accounts.models import Consumer, ConsumerBudget
from catalog.models import Entitlement, Service, Tier
from common import clock
from common.ids import is_uuid7
from keys.format import mint
from keys.models import ApiKey
from metering.models import QuotaPeriod, UsageRecord, UsageRollup
from tests import factories
from tests.harness.waiting import wait_at_most, wait_for
from tests.live.stack import GatewayProcess, Stack

PROMPT = {"prompt": "Explain quantum computing in simple terms", "max_tokens": 500, "temperature": 0.7}


def make_service(stack: Stack, **fields: Any) -> Service:
    return factories.make_service(endpoint=stack.upstream_url, **fields)


def make_key(stack: Stack, **fields: Any) -> tuple[Service, ApiKey, str]:
    service = make_service(stack, **fields)
    key, text = factories.make_key(service=service)
    return service, key, text


def ledger_row(request_id: str) -> UsageRecord:
    """The row of a request, waited for."""
    wait_for(lambda: UsageRecord.objects.filter(id=request_id).exists())
    return UsageRecord.objects.get(id=request_id)


def consumed(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = json.loads(answer.text, parse_float=Decimal)
    return document


def test_an_answer_has_the_published_shape_and_a_ledger_row(gateway: GatewayProcess, stack: Stack) -> None:
    service, key, text = make_key(stack)
    answer = gateway.consume(service.id, text, {**PROMPT, "metadata": {"user_id": "user_123"}})
    document = consumed(answer)

    assert set(document) == {"request_id", "response", "usage", "cost", "latency_ms"}
    assert is_uuid7(uuid.UUID(document["request_id"]))
    choice = document["response"]["choices"][0]
    assert isinstance(choice["text"], str)
    assert choice["text"]
    assert choice["finish_reason"] == "stop"
    usage = document["usage"]
    assert set(usage) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    amount = Decimal("0.0001") * usage["total_tokens"]
    assert document["cost"] == {
        "amount": amount,
        "currency": "USD",
        "breakdown": {**usage, "rate_per_token": Decimal("0.0001")},
    }
    assert answer.headers["X-Request-Id"] == document["request_id"]
    assert Decimal(answer.headers["X-Cost"]) == amount
    assert answer.headers["RateLimit-Limit"] == "1000"
    assert answer.headers["RateLimit-Remaining"] == "999"

    logged = stack.logged_calls()[document["request_id"]]
    assert logged["total_tokens"] == usage["total_tokens"]
    row = ledger_row(document["request_id"])
    assert (row.status, row.kind, row.settlement) == ("success", "usage", "lease")
    assert (row.consumer_id, row.service_id, row.api_key_id) == (key.consumer_id, service.id, key.id)
    assert row.price_version.service_id == service.id
    assert row.cost_amount == amount
    assert row.cost == {"amount": amount, "currency": "USD"}
    assert row.total_tokens == usage["total_tokens"]
    assert row.usage["usage_source"] == "reported"
    assert row.metadata == {"user_id": "user_123"}
    assert row.error is None
    rollup = UsageRollup.objects.get(consumer_id=key.consumer_id)
    assert (rollup.requests, rollup.total_tokens, rollup.cost_amount) == (1, row.total_tokens, amount)
    period = QuotaPeriod.objects.get(consumer_id=key.consumer_id)
    assert (period.used, period.granted) == (row.total_tokens, 1_000_000_000)


def test_messages_are_taken_in_place_of_a_prompt(gateway: GatewayProcess, stack: Stack) -> None:
    service, _, text = make_key(stack)
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello there"}]
    assert consumed(gateway.consume(service.id, text, {"messages": messages}))["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize(
    ("pricing", "cost"),
    [
        (factories.PER_REQUEST, lambda usage: Decimal("0.01")),
        (factories.SUBSCRIPTION, lambda usage: Decimal(0)),
        (
            {
                "model": "per_token",
                "rates": {"prompt": "0.000001", "completion": "0.00000333"},
                "currency": "EUR",
            },
            lambda usage: (
                Decimal("0.000001") * usage["prompt_tokens"]
                + Decimal("0.00000333") * usage["completion_tokens"]
            ),
        ),
    ],
)
def test_every_kind_of_price_is_charged_exactly(
    gateway: GatewayProcess, stack: Stack, pricing: dict[str, Any], cost: Any
) -> None:
    service, _, text = make_key(stack, pricing=pricing)
    document = consumed(gateway.consume(service.id, text, PROMPT))
    expected = cost(document["usage"])
    assert document["cost"]["amount"] == expected
    assert document["cost"]["currency"] == pricing["currency"]
    assert "e" not in str(
        json.loads(gateway.consume(service.id, text, PROMPT).text, parse_float=str)["cost"]["amount"]
    )
    row = ledger_row(document["request_id"])
    assert (row.cost_amount, row.currency) == (expected, pricing["currency"])


def test_a_new_price_holds_from_the_next_call_on(gateway: GatewayProcess, stack: Stack) -> None:
    service, _, text = make_key(stack)
    first = consumed(gateway.consume(service.id, text, PROMPT))
    version = service.publish_price(factories.PER_REQUEST)

    def latest() -> dict[str, Any]:
        return consumed(gateway.consume(service.id, text, PROMPT))

    wait_at_most(lambda: latest()["cost"]["amount"] == Decimal("0.01"), seconds=2)
    assert ledger_row(latest()["request_id"]).price_version_id == version.id
    assert ledger_row(first["request_id"]).price_version_id != version.id


BAD_BODIES = [
    (b"", 400, "malformed_request"),
    (b"{", 400, "malformed_request"),
    (b"not json", 400, "malformed_request"),
    (b'\xff\xfe{"prompt":"a"}', 400, "malformed_request"),
    (b'{"prompt":"a","prompt":"b"}', 400, "malformed_request"),
    (b'{"prompt":"nul \\u0000"}', 400, "malformed_request"),
    (b'{"prompt":"nul \x00"}', 400, "malformed_request"),
    (b'{"prompt":"\\ud800"}', 400, "malformed_request"),
    (b'{"prompt":"a","metadata":{"\\u0000":1}}', 400, "malformed_request"),
    (b"[" * 100_000, 400, "malformed_request"),
    (b'{"prompt":' + b'{"a":' * 100_000, 400, "malformed_request"),
    (b'{"prompt":"a","temperature":1e400}', 400, "malformed_request"),
    (b'{"prompt":"a","temperature":NaN}', 400, "malformed_request"),
    (b'{"prompt":"a","max_tokens":99999999999999999999}', 400, "malformed_request"),
    (b'{"prompt":"a","max_tokens":9223372036854775808}', 400, "malformed_request"),
    (b'{"prompt":"a","max_tokens":' + b"9" * 5000 + b"}", 400, "malformed_request"),
    (b"null", 422, "invalid_field"),
    (b"[]", 422, "invalid_field"),
    (b"{}", 422, "invalid_field"),
    (b'{"prompt":7}', 422, "invalid_field"),
    (b'{"prompt":""}', 422, "invalid_field"),
    (b'{"prompt":"a","messages":[{"role":"user","content":"b"}]}', 422, "invalid_field"),
    (b'{"messages":[]}', 422, "invalid_field"),
    (b'{"messages":[{"role":"wizard","content":"a"}]}', 422, "invalid_field"),
    (b'{"prompt":"a","max_tokens":0}', 422, "invalid_field"),
    (b'{"prompt":"a","max_tokens":-1}', 422, "invalid_field"),
    (b'{"prompt":"a","max_tokens":true}', 422, "invalid_field"),
    (b'{"prompt":"a","max_tokens":9223372036854775807}', 422, "invalid_field"),
    (b'{"prompt":"a","temperature":2.01}', 422, "invalid_field"),
    (b'{"prompt":"a","temperature":"1"}', 422, "invalid_field"),
    (b'{"prompt":"a","n":17}', 422, "invalid_field"),
    (b'{"prompt":"a","max_token":5}', 422, "invalid_field"),
    (b'{"prompt":"a","metadata":[]}', 422, "invalid_field"),
    (b'{"prompt":"a","metadata":{"a":"' + b"x" * 1024 + b'"}}', 422, "invalid_field"),
    (b'{"prompt":"' + b"x" * 1_100_000 + b'"}', 413, "body_too_large"),
]


@pytest.mark.parametrize(
    ("body", "status", "code"), BAD_BODIES, ids=[repr(bad[0][:40]) for bad in BAD_BODIES]
)
def test_a_bad_body_is_refused_and_consumes_nothing(
    gateway: GatewayProcess, stack: Stack, body: bytes, status: int, code: str
) -> None:
    service, key, text = shared_key(stack)
    before = len(stack.logged_calls())
    answer = gateway.consume(service.id, text, body)
    assert_problem(answer, status, code)
    assert b"nul" not in answer.content.replace(b"null", b"")
    assert len(stack.logged_calls()) == before
    assert counters(stack, key, service) in ({}, {b"used": b"0", b"reserved": b"0"})


_shared: dict[str, tuple[Service, ApiKey, str]] = {}


def shared_key(stack: Stack) -> tuple[Service, ApiKey, str]:
    """One key for all calls that must consume nothing."""
    if "key" not in _shared:
        _shared["key"] = make_key(stack)
    return _shared["key"]


def counters(stack: Stack, key: ApiKey, service: Service) -> dict[bytes, bytes]:
    client = stack.valkey_client()
    names = list(client.scan_iter(f"*:quota:{key.consumer_id}:{service.id}:*"))
    return cast(dict[bytes, bytes], client.hgetall(names[0])) if names else {}


def assert_problem(answer: Any, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert document["status"] == status
    assert document["request_id"] == answer.headers["X-Request-Id"]
    assert {"type", "title", "detail"} <= set(document)


def test_credentials_that_are_missing_or_bad_are_refused_alike(gateway: GatewayProcess, stack: Stack) -> None:
    service, key, text = make_key(stack)
    assert_problem(gateway.consume(service.id, None, PROMPT), 401, "credentials_missing")
    other = factories.make_key(service=make_service(stack))[1]
    _, revoked_text = factories.make_key(key.consumer, service, revoked_at=clock.now())
    _, expired_text = factories.make_key(
        key.consumer, service, expires_at=clock.now() - dt.timedelta(seconds=1)
    )
    bad = [
        "x",
        "ключ".encode().decode("latin-1"),
        text[:-1],
        text + "0",
        text.swapcase(),
        text[:30] + other[30:],
        mint().text,
        revoked_text,
        expired_text,
    ]
    answers = [gateway.consume(service.id, each, PROMPT) for each in bad]
    for answer in answers:
        assert_problem(answer, 403, "invalid_api_key")
    assert len({json.dumps({**a.json(), "request_id": ""}) for a in answers}) == 1
    assert counters(stack, key, service) == {}


def test_a_key_reaches_its_service_only(gateway: GatewayProcess, stack: Stack) -> None:
    service, key, text = make_key(stack)
    other = make_service(stack)
    Entitlement.objects.create(consumer=key.consumer, service=other, tier=factories.make_tier())
    assert_problem(gateway.consume(other.id, text, PROMPT), 403, "access_denied")
    assert_problem(gateway.consume(make_service(stack).id, text, PROMPT), 403, "access_denied")
    assert_problem(
        gateway.consume(make_service(stack, status="draft").id, text, PROMPT, wait=0.2),
        404,
        "service_not_found",
    )
    assert_problem(gateway.consume(uuid.uuid4(), text, PROMPT, wait=0.2), 404, "service_not_found")
    assert_problem(gateway.consume("nonsense", text, PROMPT, wait=0.2), 404, "service_not_found")
    assert counters(stack, key, other) == {}

    _, everywhere = factories.make_key(key.consumer, every_service=True)
    for each in (service, other):
        assert gateway.consume(each.id, everywhere, PROMPT).status_code == 200


def test_revoking_and_suspending_work_within_a_second(gateway: GatewayProcess, stack: Stack) -> None:
    service, key, text = make_key(stack)
    assert gateway.consume(service.id, text, PROMPT).status_code == 200
    Consumer.objects.filter(id=key.consumer_id).update(status="suspended")
    wait_at_most(lambda: gateway.consume(service.id, text, PROMPT).status_code == 403, seconds=1)
    Consumer.objects.filter(id=key.consumer_id).update(status="active")
    wait_at_most(lambda: gateway.consume(service.id, text, PROMPT).status_code == 200, seconds=1)
    ApiKey.objects.filter(id=key.id).update(revoked_at=clock.now())
    wait_at_most(lambda: gateway.consume(service.id, text, PROMPT).status_code == 403, seconds=1)


def test_the_rate_of_the_tier_holds_and_says_when_to_come_back(gateway: GatewayProcess, stack: Stack) -> None:
    service, _, text = make_slow_key(stack)
    answers = [gateway.consume(service.id, text, PROMPT) for _ in range(10)]
    assert answers[0].status_code == 200
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert_problem(refused[0], 429, "rate_limited")
    assert refused[0].headers["Retry-After"] == "1"
    assert refused[0].headers["RateLimit-Limit"] == "1"
    assert refused[0].headers["RateLimit-Remaining"] == "0"


def make_slow_key(stack: Stack) -> tuple[Service, ApiKey, str]:
    """One call a second: however busy the machine is, a few in a row are too many."""
    service, key, text = make_key(stack)
    Entitlement.objects.filter(consumer=key.consumer).update(requests_per_second=1)
    return service, key, text


def test_the_quota_holds_to_the_last_token(gateway: GatewayProcess, stack: Stack) -> None:
    tier, _ = Tier.objects.get_or_create(
        name="tiny", defaults={"rank": 1, "requests_per_second": None, "tokens_per_month": 400}
    )
    service = make_service(stack)
    key, _ = factories.make_key(service=service)
    Entitlement.objects.filter(consumer=key.consumer).update(tier=tier)
    _, text = factories.make_key(key.consumer, every_service=True)

    answers = [
        gateway.consume(service.id, text, {"prompt": "hello there", "max_tokens": 60}) for _ in range(30)
    ]
    accepted = [consumed(answer) for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code != 200]
    used = sum(each["usage"]["total_tokens"] for each in accepted)
    assert 0 < used <= 400
    assert refused
    assert_problem(refused[0], 402, "quota_exceeded")
    assert (refused[0].json()["limit"], refused[0].json()["used"]) == (400, used)
    assert counters(stack, key, service) == {b"used": str(used).encode(), b"reserved": b"0"}
    # More than is left was asked for: without a cap of its own a call gets what remains.
    rest = gateway.consume(service.id, text, {"prompt": "hi"})
    assert rest.status_code in {200, 402}


def test_an_entitlement_that_is_lowered_lowers_its_keys_within_a_second(
    gateway: GatewayProcess, stack: Stack
) -> None:
    service, key, text = make_key(stack)
    assert gateway.consume(service.id, text, PROMPT).headers["RateLimit-Limit"] == "1000"
    Entitlement.objects.filter(consumer=key.consumer).update(tier=factories.make_tier("basic"))
    wait_at_most(
        lambda: gateway.consume(service.id, text, PROMPT).headers.get("RateLimit-Limit") == "10", seconds=1
    )
    assert gateway.get(f"/api/v1/quota/{service.id}", text).json()["tier"] == "basic"


def test_a_limit_of_key_or_consumer_that_is_changed_holds_in_every_gateway_within_a_second(
    lane_gateway: GatewayProcess, view_gateway: GatewayProcess, stack: Stack
) -> None:
    """And what was used before it counts."""
    service, key, text = make_key(stack)
    both = (lane_gateway, view_gateway)
    body = {"prompt": "hello there", "max_tokens": 60}
    answers: list[dict[str, Any]] = []

    def codes() -> set[str]:
        answers.extend(gateway.consume(service.id, text, body).json() for gateway in both)
        return {str(answer.get("code")) for answer in answers[-2:]}

    def used() -> int:
        return sum(answer["usage"]["total_tokens"] for answer in answers if "usage" in answer)

    assert codes() == {"None"}
    limit = used()
    ApiKey.objects.filter(id=key.id).update(tokens_per_month=limit)
    wait_at_most(lambda: codes() == {"quota_exceeded"}, seconds=1)
    refusal = lane_gateway.consume(service.id, text, body).json()
    # What one of them let in before it had heard of the limit is counted too.
    assert (refusal["limit"], refusal["used"], refusal["scope"]) == (limit, used(), "key")
    ApiKey.objects.filter(id=key.id).update(tokens_per_month=None)
    wait_at_most(lambda: codes() == {"None"}, seconds=1)

    budget = ConsumerBudget.objects.create(
        consumer=key.consumer, amount="0.0001", currency="USD", period="month"
    )
    wait_at_most(lambda: codes() == {"budget_exceeded"}, seconds=1)
    ConsumerBudget.objects.filter(id=budget.id).update(soft=True)
    wait_at_most(lambda: codes() == {"None"}, seconds=1)


def test_a_tier_of_zero_forbids(gateway: GatewayProcess, stack: Stack) -> None:
    Tier.objects.get_or_create(
        name="nothing", defaults={"rank": 2, "requests_per_second": 0, "tokens_per_month": None}
    )
    service, key, _ = make_key(stack)
    Entitlement.objects.filter(consumer=key.consumer).update(tier="nothing")
    _, text = factories.make_key(key.consumer, every_service=True)
    assert_problem(gateway.consume(service.id, text, PROMPT), 403, "tier_forbids")


def test_a_policy_denies_with_its_reason_and_leaves_an_event(gateway: GatewayProcess, stack: Stack) -> None:
    service, key, text = make_key(stack)
    answer = gateway.consume(service.id, text, {**PROMPT, "metadata": {"data_classification": "restricted"}})
    assert_problem(answer, 403, "policy_violation")
    assert answer.json()["policy_id"] == "data-classification"
    assert counters(stack, key, service) == {}
    request_id = answer.headers["X-Request-Id"].encode()
    wait_for(lambda: any(request_id in event for event in stack.valkey_events()))


def test_an_upstream_that_is_not_there_is_a_502_on_record_at_no_cost(
    gateway: GatewayProcess, stack: Stack
) -> None:
    service = factories.make_service(endpoint="http://127.0.0.1:9/v1", pricing=factories.PER_REQUEST)
    key, text = factories.make_key(service=service)
    answer = gateway.consume(service.id, text, PROMPT)
    assert_problem(answer, 502, "upstream_failed")
    row = ledger_row(answer.headers["X-Request-Id"])
    assert (row.status, row.cost_amount, row.total_tokens) == ("error", Decimal(0), 0)
    assert row.error == {"code": "upstream_failed"}
    assert counters(stack, key, service) == {b"used": b"0", b"reserved": b"0"}


def test_an_upstream_in_a_forbidden_network_is_never_connected_to(stack: Stack) -> None:
    """It was allowed when it was saved; the gateway judges again."""
    service, _, text = make_key(stack)
    named = make_service(stack)
    named.endpoint = stack.upstream_url.replace("127.0.0.1", "localhost")
    named.save()
    _, named_text = factories.make_key(service=named)
    strict = stack.start_gateway(UPSTREAM_ALLOWED_NETWORKS="10.0.0.0/8")
    before = len(stack.logged_calls())
    for each, key in ((service, text), (named, named_text)):
        assert_problem(strict.consume(each.id, key, PROMPT), 502, "upstream_failed")
    assert len(stack.logged_calls()) == before
    strict.terminate()


def test_a_named_upstream_is_called_by_the_address_it_was_judged_by(
    gateway: GatewayProcess, stack: Stack
) -> None:
    service = factories.make_service(endpoint=stack.upstream_url.replace("127.0.0.1", "localhost"))
    _, text = factories.make_key(service=service)
    assert gateway.consume(service.id, text, PROMPT).status_code == 200


def test_a_body_that_comes_slowly_is_served_and_is_no_latency_of_the_service(
    gateway: GatewayProcess, stack: Stack
) -> None:
    """Admission refuses ids that are 5 s old, so an id is made when the body is here."""
    service, _, text = make_key(stack)
    consumed(gateway.consume(service.id, text, PROMPT))

    def slowly() -> Iterator[bytes]:
        yield b'{"prompt": '
        time.sleep(5.5)
        yield b'"Hello"}'

    answer = requests.post(
        f"{gateway.url}/api/v1/consume/{service.id}",
        data=slowly(),
        headers={"Authorization": f"Bearer {text}", "Content-Type": "application/json"},
        timeout=20,
    )
    document = consumed(answer)
    assert document["latency_ms"] < 5000
    assert ledger_row(document["request_id"]).duration_ms < 5000


def test_a_body_that_is_cut_short_consumes_nothing_though_it_reads_well(
    gateway: GatewayProcess, stack: Stack
) -> None:
    service, _, text = make_key(stack)
    consumed(gateway.consume(service.id, text, PROMPT))
    before = len(stack.logged_calls())
    body = json.dumps(PROMPT).encode()
    head = (
        f"POST /api/v1/consume/{service.id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {text}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body) + 10}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(head + body)
        time.sleep(0.3)
    time.sleep(1)
    assert len(stack.logged_calls()) == before


def test_the_way_to_the_console_is_told_whatever_the_path_holds(
    gateway: GatewayProcess, stack: Stack
) -> None:
    for path, told in (
        ("/admin/login/?next=/admin/", "/admin/login/?next=/admin/"),
        ("/admin/%0d%0aX-Evil:%201", "/admin/%0D%0AX-Evil%3A%201"),
        ("/admin/%e4%b8%ad", "/admin/%E4%B8%AD"),
    ):
        answer = requests.get(gateway.url + path, allow_redirects=False, timeout=10)
        assert (answer.status_code, answer.headers["Location"]) == (302, console_of(gateway) + told)
        assert "X-Evil" not in answer.headers


def console_of(gateway: GatewayProcess) -> str:
    return f"http://127.0.0.1:{gateway.port + 1}"


def test_other_methods_and_paths_are_problems_too(gateway: GatewayProcess, stack: Stack) -> None:
    assert gateway.get(f"/api/v1/consume/{uuid.uuid4()}").status_code == 405
    assert gateway.get("/api/v1/nowhere").status_code == 404


def test_probes_and_metrics_tell_the_state(gateway: GatewayProcess, stack: Stack) -> None:
    service, _, text = make_key(stack)
    consumed(gateway.consume(service.id, text, PROMPT))
    assert gateway.get("/health").json() == {"status": "ok"}
    well = {
        "admission": "normal", "postgresql": "up", "valkey": "up", "limits": "live", "catalogue": "loaded",
    }  # fmt: skip
    wait_for(lambda: gateway.get("/health/ready").json() == {"status": "ready", "dependencies": well})
    text_ = gateway.get("/metrics").text
    assert f'consumption_requests_total{{service_id="{service.id}",status="success"}} 1.0' in text_
    assert 'http_requests_total{method="POST",path="/api/v1/consume/{id}",status="200"}' in text_
    for name in ("db_connections_active", "redis_connections_active", "analytics_buffer_size"):
        assert f"\n{name} " in text_
    assert text not in text_
