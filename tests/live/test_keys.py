"""What a key may do, over both transports, and that the lane sees through a trusted proxy alone."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from keys.models import ApiKey
from tests import factories
from tests.harness.waiting import wait_at_most, wait_for
from tests.live.stack import GatewayProcess, Stack, patiently

PROMPT = {"prompt": "Hello", "max_tokens": 10}


def outcome(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, json.loads(answer.content).get("code", "")


def test_a_key_needs_the_scope_and_the_network_for_a_paid_call(gateway: GatewayProcess, stack: Stack) -> None:
    service = factories.make_service(endpoint=stack.upstream_url)
    reader, reads = factories.make_key(service=service, scopes=["usage:read", "quota:read"])
    _, elsewhere = factories.make_key(reader.consumer, service, allowed_networks=["192.0.2.0/24"])
    _, here = factories.make_key(reader.consumer, service, allowed_networks=["127.0.0.0/8"])
    before = len(stack.logged_calls())
    assert outcome(gateway.consume(service.id, reads, PROMPT)) == (403, "scope_missing")
    assert outcome(gateway.consume(service.id, elsewhere, PROMPT)) == (403, "invalid_api_key")
    assert len(stack.logged_calls()) == before
    assert gateway.consume(service.id, here, PROMPT).status_code == 200

    ApiKey.objects.filter(id=reader.id).update(scopes=["consume"])
    wait_at_most(lambda: gateway.consume(service.id, reads, PROMPT).status_code == 200, seconds=1)


def test_test_keys_and_live_keys_reach_each_their_own(gateway: GatewayProcess, stack: Stack) -> None:
    live = factories.make_service(endpoint=stack.upstream_url)
    sandbox = factories.make_service(endpoint=stack.upstream_url, testing=True)
    key, text = factories.make_key(service=live, every_service=True)
    factories.make_entitlement(key.consumer, sandbox)
    _, test_text = factories.make_key(key.consumer, every_service=True, environment="test")
    for reaching, reached, other in ((text, live, sandbox), (test_text, sandbox, live)):
        assert gateway.consume(reached.id, reaching, PROMPT).status_code == 200
        assert outcome(gateway.consume(other.id, reaching, PROMPT)) == (403, "access_denied")
        models = gateway.get("/v1/models", reaching).json()["data"]
        assert [model["id"] for model in models] == [reached.name]


@pytest.fixture(params=["lane", "view"])
def behind_a_proxy(request: pytest.FixtureRequest, stack: Stack) -> Iterator[GatewayProcess]:
    gateway = stack.start_gateway(lane=request.param == "lane", TRUSTED_PROXIES="127.0.0.0/8")
    yield gateway
    gateway.terminate()


def test_behind_a_trusted_proxy_the_client_is_who_it_says(
    behind_a_proxy: GatewayProcess, stack: Stack
) -> None:
    service = factories.make_service(endpoint=stack.upstream_url)
    _, text = factories.make_key(service=service, allowed_networks=["192.0.2.0/24"])

    def call(forwarded: str | None) -> Any:
        headers = {"Authorization": f"Bearer {text}"}
        if forwarded is not None:
            headers["X-Forwarded-For"] = forwarded
        url = f"{behind_a_proxy.url}/api/v1/consume/{service.id}"
        return patiently(lambda: requests.post(url, json=PROMPT, headers=headers, timeout=20)).status_code

    wait_for(lambda: call("192.0.2.9") == 200)
    assert call("198.51.100.1, 192.0.2.9") == 200
    assert call("192.0.2.9, 198.51.100.1") == 403
    assert call(None) == 403


def test_a_key_in_the_url_of_a_paid_call_is_refused(gateway: GatewayProcess, stack: Stack) -> None:
    service = factories.make_service(endpoint=stack.upstream_url)
    _, text = factories.make_key(service=service)
    before = len(stack.logged_calls())
    for path in (f"/api/v1/consume/{service.id}?key={text}", f"/api/v1/consume/{text}"):
        answer = requests.post(
            gateway.url + path, json=PROMPT, headers={"Authorization": f"Bearer {text}"}, timeout=10
        )
        assert outcome(answer) == (400, "key_in_url")
    answer = requests.post(
        f"{gateway.url}/v1/chat/completions?api_key={text}", json={"model": service.name}, timeout=10
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "key_in_url")
    redirect = requests.get(f"{gateway.url}/admin/?key={text}", timeout=10, allow_redirects=False)
    assert outcome(redirect) == (400, "key_in_url")
    assert len(stack.logged_calls()) == before
    assert text not in (stack.folder / f"gateway-{gateway.port}.log").read_text()
