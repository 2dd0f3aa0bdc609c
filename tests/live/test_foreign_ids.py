"""The matrix of ``tests/foreign`` for the calls that the gateway answers itself, over a socket."""

import json
from decimal import Decimal
from typing import Any

import requests

from accounts.sign_ins import begin
from catalog.models import Service
from keys.models import Scope
from metering.models import UsageRecord
from tests import factories
from tests.foreign.routes import Route, every_route
from tests.foreign.rows import changes, every_row
from tests.foreign.test_fields import every_field
from tests.foreign.world import kind_of
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack, patiently

ABSENT = {"uuid": "0199c0de-0000-7000-8000-000000000000", "number": "9" * 18, "text": "absent"}
#: What a call says besides the service's name, which the body of one in another's dialect holds.
BODY: dict[str, Any] = {
    "max_tokens": 5,
    "prompt": "Hello",
    "input": "Hello",
    "messages": [{"role": "user", "content": "Hello"}],
}
CHANGING_HEADERS = {"x-request-id", "request-id", "content-length", "date"}


def called(url: str, body: dict[str, Any], key: str | None) -> requests.Response:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return patiently(lambda: requests.post(url, json=body, headers=headers, timeout=20))


def body_for(route: Route, value: str) -> dict[str, Any]:
    wanted = {
        "/api/v1/consume/<str:service_id>": ("prompt", "max_tokens"),
        "/v1/chat/completions": ("messages",),
        "/v1/completions": ("prompt",),
        "/v1/embeddings": ("input",),
        "/v1/messages": ("messages", "max_tokens"),
    }
    assert route.template in wanted, f"the matrix knows no body for {route.template}"
    body = {name: BODY[name] for name in wanted[route.template]}
    return body if route.parameters else {**body, "model": value}


def ask(gateway: GatewayProcess, route: Route, value: str, token: str | None) -> Any:
    """Status, headers and body, but for what differs between any two answers."""
    answer = called(gateway.url + route.filled(value), body_for(route, value), token)
    headers = {name: text for name, text in answer.headers.items() if name.lower() not in CHANGING_HEADERS}
    document = json.loads(answer.content)
    document.pop("request_id", None)
    return answer.status_code, headers, document


def test_a_paid_call_finds_nothing_of_another(gateway: GatewayProcess, stack: Stack) -> None:
    hidden = factories.make_service(endpoint=stack.upstream_url, status=Service.Status.DRAFT)
    theirs, _ = factories.make_key(service=hidden)
    ids = {hidden.id, hidden.name, f"{hidden.name}@{hidden.version}", theirs.id, theirs.lineage}
    ids |= {theirs.consumer_id, theirs.public_id, hidden.price_versions.get().id}
    own, text = factories.make_key(service=factories.make_service(endpoint=stack.upstream_url))
    wait_for(lambda: gateway.consume(own.service_id, text, {"prompt": "Hello"}).status_code == 200)
    before = len(stack.logged_calls())

    tokens = {
        "nobody": None,
        "a person": str(begin(user=factories.make_member(own.consumer).user).access_token),
    }
    for scope in Scope.values:
        tokens[scope] = factories.make_key(own.consumer, every_service=True, scopes=[scope])[1]
    for route in every_route():
        if not route.paid or "post" not in route.methods:
            continue
        for name, token in tokens.items():
            expected = {kind: ask(gateway, route, value, token) for kind, value in ABSENT.items()}
            for value in map(str, ids):
                answer = ask(gateway, route, value, token)
                assert answer == expected[kind_of(value)], (name, route.template, value)
                if name == Scope.CONSUME:
                    assert answer[0] == 404, (route.template, value, answer)
                else:
                    assert answer[0] in {401, 403}, (route.template, value, answer)
    assert len(stack.logged_calls()) == before
    assert not theirs.consumer.api_keys.exclude(last_used_at=None).exists()


def test_no_field_of_a_paid_call_changes_whose_it_is_or_what_it_costs(
    lane_gateway: GatewayProcess, stack: Stack
) -> None:
    """Every field of every model, sent along: what the call is for stands in the ledger, and no other table moves."""
    service = factories.make_service(endpoint=stack.upstream_url)
    factories.make_key(service=factories.make_service(endpoint=stack.upstream_url))  # what another has
    key, text = factories.make_key(service=service)
    wait_for(lambda: lane_gateway.consume(service.id, text, {"prompt": "Hello"}).status_code == 200)
    wait_for(lambda: UsageRecord.objects.filter(consumer=key.consumer).exists())
    price = service.price_versions.get()
    before = every_row()
    answered = set()
    for route in [each for each in every_route() if each.paid and "post" in each.methods]:
        body = body_for(route, service.name)
        more = [{name: value} for name, value in every_field() if name not in body]
        for extra in [*more, {name: value for each in more for name, value in each.items()}]:
            url = lane_gateway.url + route.filled(service.id)
            answer = called(url, {**body, **extra}, text)
            assert answer.status_code in {200, 400, 422}, (route.template, extra, answer.text)
            if answer.status_code == 200:
                answered.add(answer.headers["X-Request-Id"])
    assert len(answered) > 100
    wait_for(lambda: UsageRecord.objects.filter(id__in=answered).count() == len(answered))
    for row in UsageRecord.objects.filter(id__in=answered):
        assert (row.consumer_id, row.service_id, row.api_key_id) == (key.consumer_id, service.id, key.id)
        assert (row.tier_id, row.price_version_id, row.status) == ("enterprise", price.id, "success")
        assert row.cost_amount == row.total_tokens * Decimal("0.0001")
    moved = {(table, column) for table, _, column in changes(before, every_row())}
    moved -= {("api_keys", "last_used_at"), ("quota_periods", "used")}
    ours = ("usage_", "journal_", "analytics_", "gateways")
    assert not {each for each in moved if not each[0].startswith(ours)}, moved
