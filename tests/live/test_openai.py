"""The official ``openai`` client, unchanged, through the marketplace to a real upstream."""

import json
from decimal import Decimal
from typing import Any

import httpx2
import openai
import pytest
import requests

from catalog.models import Entitlement
from metering.models import UsageRecord
from tests import factories
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Patient, Stack, patiently
from tests.live.test_contract import ledger_row

MESSAGES: Any = [{"role": "user", "content": "Explain quantum computing in simple terms"}]


class Setting:
    """A service, a key for it, and a client that has the key."""

    def __init__(
        self, gateway: GatewayProcess, stack: Stack, *, tier: str = "enterprise", **fields: Any
    ) -> None:
        self.gateway = gateway
        self.service = factories.make_service(endpoint=stack.upstream_url, **fields)
        self.key, self.text = factories.make_key(service=self.service, tier=tier)
        self.client = openai.OpenAI(
            base_url=f"{gateway.url}/v1",
            api_key=self.text,
            max_retries=0,
            http_client=httpx2.Client(transport=Patient()),
        )
        gateway.wait_for_service(self.service.id, self.text)

    def post(
        self, body: Any, *, path: str = "/v1/chat/completions", stream: bool = False
    ) -> requests.Response:
        url, headers = self.gateway.url + path, {"Authorization": f"Bearer {self.text}"}
        return patiently(lambda: requests.post(url, json=body, headers=headers, stream=stream, timeout=20))


@pytest.fixture
def setting(gateway: GatewayProcess, stack: Stack) -> Setting:
    return Setting(gateway, stack)


def the_row(setting: Setting) -> UsageRecord:
    wait_for(lambda: UsageRecord.objects.filter(api_key_id=setting.key.id).exists())
    return UsageRecord.objects.get(api_key_id=setting.key.id)


def test_a_chat_completion_is_answered_as_the_upstream_wrote_it(setting: Setting) -> None:
    raw = setting.client.chat.completions.with_raw_response.create(
        model=setting.service.name, messages=MESSAGES, max_tokens=100
    )
    completion = raw.parse()
    assert completion.choices[0].message.content
    assert completion.usage is not None
    row = ledger_row(raw.headers["x-request-id"])
    assert (row.status, row.total_tokens) == ("success", completion.usage.total_tokens)
    assert Decimal(raw.headers["x-cost"]) == row.cost_amount == Decimal("0.0001") * row.total_tokens
    named = f"{setting.service.name}@{setting.service.version}"
    assert setting.client.chat.completions.create(model=named, messages=MESSAGES).choices


def test_models_are_what_the_key_may_call(setting: Setting, stack: Stack) -> None:
    Setting(setting.gateway, stack)
    assert [model.id for model in setting.client.models.list()] == [setting.service.name]
    stranger = openai.OpenAI(base_url=f"{setting.gateway.url}/v1", api_key="mk_live_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_a_stream_is_passed_on_and_settled(setting: Setting, stack: Stack) -> None:
    stream = setting.client.chat.completions.create(
        model=setting.service.name, messages=MESSAGES, stream=True
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert len(chunks) > 3
    assert text
    assert all(chunk.usage is None for chunk in chunks), "nobody asked for it"
    row = the_row(setting)
    logged = stack.logged_calls()[str(row.id)]
    assert (row.status, row.usage["usage_source"]) == ("success", "reported")
    assert row.total_tokens == logged["total_tokens"]


def test_a_stream_tells_usage_and_cost_to_who_asks(setting: Setting) -> None:
    stream = setting.client.chat.completions.create(
        model=setting.service.name, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.choices == []
    assert last.usage is not None
    row = the_row(setting)
    assert row.total_tokens == last.usage.total_tokens
    cost: Any = last.model_extra
    assert Decimal(str(cost["cost"]["amount"])) == row.cost_amount


def test_our_own_stream_ends_with_usage_and_cost(setting: Setting) -> None:
    body = {"prompt": "Explain quantum computing", "stream": True}
    answer = setting.post(body, path=f"/api/v1/consume/{setting.service.id}", stream=True)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    lines = [line[6:] for line in answer.iter_lines() if line]
    assert lines[-1] == b"[DONE]"
    events = [json.loads(line, parse_float=Decimal) for line in lines[:-1]]
    assert "".join(choice["text"] for event in events for choice in event["response"]["choices"])
    assert {event["request_id"] for event in events} == {answer.headers["X-Request-Id"]}
    row = ledger_row(answer.headers["X-Request-Id"])
    assert events[-1]["usage"]["total_tokens"] == row.total_tokens
    assert events[-1]["cost"]["amount"] == row.cost_amount
    assert all("usage" not in event for event in events[:-1])


def test_the_clients_own_errors_come_out_right(setting: Setting, stack: Stack) -> None:
    def create(**changes: Any) -> Any:
        client = changes.pop("client", setting.client)
        return client.chat.completions.create(
            **{"model": setting.service.name, "messages": MESSAGES, **changes}
        )

    stranger = openai.OpenAI(base_url=f"{setting.gateway.url}/v1", api_key="mk_live_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as wrong:
        create(client=stranger)
    assert wrong.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        create(model="no-such-model")
    with pytest.raises(openai.UnprocessableEntityError) as invalid:
        create(temperature=3)
    assert invalid.value.param == "temperature"
    with pytest.raises(openai.PermissionDeniedError):
        create(metadata={"data_classification": "restricted"})

    basic = Setting(setting.gateway, stack, tier="basic")
    Entitlement.objects.filter(consumer=basic.key.consumer).update(requests_per_second=1)

    def call_until_refused() -> None:
        for _ in range(60):
            create(client=basic.client, model=basic.service.name, max_tokens=5)

    with pytest.raises(openai.RateLimitError) as limited:
        call_until_refused()
    assert limited.value.response.headers["retry-after"] == "1"
    with pytest.raises(openai.APIStatusError) as spent:
        create(client=basic.client, model=basic.service.name, max_tokens=200_000)
    assert spent.value.code in {"quota_exceeded", "rate_limited"}


def test_unknown_fields_are_passed_on_and_known_ones_are_checked(setting: Setting) -> None:
    body = {"model": setting.service.name, "messages": MESSAGES}
    assert setting.post({**body, "logit_bias": {"5": -100}, "some_vendors_field": [1]}).status_code == 200
    for bad in (
        {"messages": MESSAGES},
        {**body, "messages": []},
        {**body, "messages": ["hello"]},
        {**body, "max_tokens": 0},
        {**body, "max_completion_tokens": "9"},
        {**body, "n": 17},
        {**body, "stream": "yes"},
        {**body, "temperature": "hot"},
    ):
        answer = setting.post(bad)
        assert answer.status_code == 422, bad
        assert answer.json()["error"]["code"] == "invalid_field"


def test_texts_are_completed_and_embedded(setting: Setting) -> None:
    completed = setting.client.completions.create(model=setting.service.name, prompt="Say it", max_tokens=9)
    embedded = setting.client.embeddings.create(model=setting.service.name, input=["one two", "three"])
    assert completed.choices[0].text
    assert len(embedded.data) == 2
    records = UsageRecord.objects.filter(api_key_id=setting.key.id, status="success")
    wait_for(lambda: records.count() == 2)
    assert completed.usage is not None
    assert {record.total_tokens for record in records} == {completed.usage.total_tokens, 3}
    assert {record.usage["usage_source"] for record in records} == {"reported"}
