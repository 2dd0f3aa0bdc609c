"""The official ``anthropic`` client, unchanged, through the marketplace to upstreams of either protocol."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import openai
import pytest
import requests
from django.db import transaction

from catalog.models import Entitlement
from metering.models import UsageRecord
from tests import factories
from tests.harness import hostile
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Patient, Stack
from tests.live.test_contract import counters, ledger_row

QUESTION: Any = [{"role": "user", "content": "Explain quantum computing in simple terms"}]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TOOL: Any = {
    "name": "look_up",
    "description": "Looks something up",
    "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}},
}

#: What the upstream asks of us: cached tokens a tenth.
COST = {
    "model": "per_token", "rates": {"prompt": "10", "completion": "20", "cached": "1"}, "unit": 1_000_000,
    "currency": "USD",
}  # fmt: skip


class Setting:
    """A service whose upstream speaks ``protocol``, a key for it, and clients that have the key."""

    def __init__(
        self,
        gateway: GatewayProcess,
        stack: Stack,
        protocol: str,
        *,
        tier: str = "enterprise",
        base_url: str = "",
    ) -> None:
        self.gateway, self.stack, self.protocol = gateway, stack, protocol
        with transaction.atomic():  # the gateway hears of the service with its endpoint, or not at all
            self.service = factories.make_service()
            factories.make_endpoint(
                self.service, base_url=base_url or stack.upstream_url, protocol=protocol, cost_pricing=COST
            )
        self.name = self.service.name
        self.key, self.text = factories.make_key(service=self.service, tier=tier)
        patient = httpx2.Client(transport=Patient())
        self.client = anthropic.Anthropic(
            base_url=gateway.url, api_key=self.text, max_retries=0, http_client=patient
        )
        self.openai = openai.OpenAI(
            base_url=f"{gateway.url}/v1", api_key=self.text, max_retries=0, http_client=patient
        )
        gateway.wait_for_service(self.service.id, self.text)

    def create(self, **more: Any) -> Any:
        asked = {"model": self.name, "max_tokens": 100, "messages": QUESTION, **more}
        return self.client.messages.create(**asked)

    def only_row(self) -> UsageRecord:
        records = UsageRecord.objects.filter(api_key_id=self.key.id)
        wait_for(records.exists)
        return records.get()

    def row(self, request_id: str | None) -> UsageRecord:
        """The call's record, which agrees with what the upstream wrote into its own log."""
        assert request_id is not None
        row = ledger_row(request_id)
        logged = self.stack.logged_calls()[request_id]
        assert (row.status, row.usage["usage_source"]) == ("success", "reported")
        assert row.usage["prompt_tokens"] == logged["prompt_tokens"]
        assert row.usage["completion_tokens"] == logged["completion_tokens"]
        assert row.cost["upstream"] == upstream_cost(row)
        return row


def upstream_cost(row: UsageRecord) -> Decimal:
    cached, usage = row.usage["cached_tokens"], row.usage
    millionths = 10 * (usage["prompt_tokens"] - cached) + cached + 20 * usage["completion_tokens"]
    return Decimal(millionths).scaleb(-6)


@pytest.fixture(params=["openai", "anthropic"])
def setting(request: pytest.FixtureRequest, gateway: GatewayProcess, stack: Stack) -> Setting:
    return Setting(gateway, stack, request.param)


@pytest.fixture
def over_anthropic(gateway: GatewayProcess, stack: Stack) -> Setting:
    return Setting(gateway, stack, "anthropic")


def test_a_message_is_answered_priced_and_on_record(setting: Setting) -> None:
    raw = setting.client.messages.with_raw_response.create(
        model=setting.name, max_tokens=100, messages=QUESTION, system="You explain things."
    )
    message = raw.parse()
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    [block] = message.content
    assert block.type == "text"
    assert block.text.startswith("Explain quantum computing in simple terms")
    row = setting.row(message._request_id)
    assert row.usage["prompt_tokens"] == message.usage.input_tokens
    assert row.usage["completion_tokens"] == message.usage.output_tokens
    assert Decimal(raw.headers["x-cost"]) == row.cost_amount == Decimal("0.0001") * row.total_tokens
    assert raw.headers["x-request-id"] == message._request_id
    assert counters(setting.stack, setting.key, setting.service)[b"reserved"] == b"0"


def test_a_stream_comes_as_the_clients_helper_wants_it_and_is_settled(setting: Setting) -> None:
    with setting.client.messages.stream(model=setting.name, max_tokens=100, messages=QUESTION) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
        request_id = stream.request_id
    assert len(pieces) > 3
    [block] = message.content
    assert block.type == "text"
    assert block.text == "".join(pieces)
    assert message.stop_reason == "end_turn"
    row = setting.row(request_id)
    assert row.usage["prompt_tokens"] == message.usage.input_tokens
    assert row.usage["completion_tokens"] == message.usage.output_tokens


def test_a_streams_events_are_in_their_order_and_the_last_one_tells_the_cost(setting: Setting) -> None:
    events = list(setting.create(stream=True))
    kinds = [event.type for event in events]
    deltas = kinds.count("content_block_delta")
    assert deltas > 3
    assert kinds == [
        "message_start", "content_block_start", *["content_block_delta"] * deltas, "content_block_stop",
        "message_delta", "message_stop",
    ]  # fmt: skip
    row = setting.only_row()
    assert Decimal(str(events[-1].cost["amount"])) == row.cost_amount


async def test_the_asynchronous_client_works_as_well(setting: Setting) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=setting.gateway.url, api_key=setting.text, max_retries=0
    ) as client:
        whole = await client.messages.create(model=setting.name, max_tokens=20, messages=QUESTION)
        async with client.messages.stream(model=setting.name, max_tokens=20, messages=QUESTION) as stream:
            streamed = await stream.get_final_message()
    assert whole.content[0].type == streamed.content[0].type == "text"
    assert whole.content[0].text == streamed.content[0].text
    assert whole.usage.output_tokens == streamed.usage.output_tokens == 20
    assert whole.stop_reason == streamed.stop_reason == "max_tokens"


def test_tools_are_called_and_their_results_are_taken(setting: Setting) -> None:
    asked: Any = {"tools": [TOOL], "tool_choice": {"type": "any"}}
    message = setting.create(**asked)
    [use] = message.content
    assert (use.type, use.name, message.stop_reason) == ("tool_use", "look_up", "tool_use")
    assert use.input["text"].startswith("Explain quantum")
    setting.row(message._request_id)

    with setting.client.messages.stream(
        model=setting.name, max_tokens=100, messages=QUESTION, **asked
    ) as stream:
        streamed = stream.get_final_message()
    assert streamed.content[0].type == "tool_use"
    assert streamed.content[0].input == use.input
    assert streamed.stop_reason == "tool_use"

    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "Found it"}]}
    turns = [
        *QUESTION,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    after = setting.create(messages=turns, tools=[TOOL])
    assert after.content[0].type == "text"
    setting.row(after._request_id)


def test_images_and_blocks_are_taken(setting: Setting) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    message = setting.create(
        messages=[{"role": "user", "content": content}],
        system=[{"type": "text", "text": "You look closely."}],
    )
    assert "What is this" in message.content[0].text
    setting.row(message._request_id)


def test_what_came_from_the_cache_is_counted_beside_the_input_and_once_in_the_ledger(
    over_anthropic: Setting,
) -> None:
    cached: Any = {"type": "text", "text": "one two three four", "cache_control": {"type": "ephemeral"}}
    message = over_anthropic.create(system=[cached])
    assert message.usage.cache_read_input_tokens == 4
    row = over_anthropic.row(message._request_id)
    assert row.usage["prompt_tokens"] == message.usage.input_tokens + 4
    assert row.usage["cached_tokens"] == 4
    with over_anthropic.client.messages.stream(
        model=over_anthropic.name, max_tokens=50, messages=QUESTION, system=[cached]
    ) as stream:
        streamed = stream.get_final_message()
        request_id = stream.request_id
    assert streamed.usage.cache_read_input_tokens == 4
    assert over_anthropic.row(request_id).usage["cached_tokens"] == 4


def test_betas_reach_an_upstream_of_the_same_protocol(gateway: GatewayProcess, stack: Stack) -> None:
    with hostile.hostile_upstream() as upstream:
        url = f"http://127.0.0.1:{upstream.server_address[1]}/message"
        setting = Setting(gateway, stack, "anthropic", base_url=url)
        asked: Any = {"model": setting.name, "max_tokens": 9, "messages": QUESTION}
        betas: list[Any] = ["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"]
        setting.client.beta.messages.create(**asked, betas=betas)
        assert f"\nanthropic-beta: {','.join(betas)}\r\n" in upstream.heads["message"]
        setting.create()
        assert "anthropic-beta" not in upstream.heads["message"]
        for wrong in ("a b", "a,,b", "a" * 1001):
            with pytest.raises(anthropic.UnprocessableEntityError) as refused:
                setting.create(extra_headers={"anthropic-beta": wrong})
            assert refused.value.body["error"]["details"]["field"] == "anthropic-beta"  # type: ignore[index]
        assert upstream.calls == ["message", "message"]


def test_what_both_sides_speak_is_passed_on_as_the_upstream_wrote_it(over_anthropic: Setting) -> None:
    body = {"model": over_anthropic.name, "max_tokens": 9, "messages": QUESTION, "some_field": [1]}
    url = f"{over_anthropic.gateway.url}/v1/messages"
    answer = requests.post(url, json=body, headers={"x-api-key": over_anthropic.text}, timeout=20)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == [
        "id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage",
    ]  # fmt: skip
    lines = requests.post(
        url, json={**body, "stream": True}, headers={"x-api-key": over_anthropic.text}, timeout=20
    ).text.split("\n")
    assert lines[0] == "event: message_start"
    assert json.loads(lines[1][6:])["message"]["usage"]["output_tokens"] == 1
    assert 'data: {"type":"ping"}' in lines


def test_the_key_may_come_in_either_header_and_in_no_other_way(setting: Setting) -> None:
    body = {"model": setting.name, "max_tokens": 5, "messages": QUESTION}

    def status(path: str, headers: dict[str, str]) -> int:
        answer = requests.post(setting.gateway.url + path, json=body, headers=headers, timeout=20)
        return answer.status_code

    bearer = {"Authorization": f"Bearer {setting.text}"}
    assert status("/v1/messages", bearer) == 200
    assert status("/v1/messages", {"x-api-key": setting.text}) == 200
    assert status("/v1/messages", {"Authorization": "Bearer mk_live_wrong", "x-api-key": setting.text}) == 401
    assert status("/v1/messages", {}) == 401
    assert status("/v1/chat/completions", {"x-api-key": setting.text}) == 401
    assert status("/v1/chat/completions", bearer) == 200


def test_the_clients_own_errors_come_out_right(setting: Setting) -> None:
    stranger = anthropic.Anthropic(base_url=setting.gateway.url, api_key="mk_live_wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as wrong:
        stranger.messages.create(model=setting.name, max_tokens=5, messages=QUESTION)
    assert (wrong.value.type, wrong.value.error_code) == ("authentication_error", "invalid_api_key")
    assert wrong.value.request_id
    assert wrong.value.body["request_id"] == wrong.value.request_id  # type: ignore[index]
    with pytest.raises(anthropic.NotFoundError) as unknown:
        setting.create(model="no-such-model")
    assert (unknown.value.type, unknown.value.error_code) == ("not_found_error", "service_not_found")
    with pytest.raises(anthropic.UnprocessableEntityError) as invalid:
        setting.create(extra_body={"temperature": 1.5})
    assert (invalid.value.type, invalid.value.error_code) == ("invalid_request_error", "invalid_field")
    with pytest.raises(anthropic.PermissionDeniedError) as denied:
        setting.create(metadata={"data_classification": "restricted"})
    assert (denied.value.type, denied.value.error_code) == ("permission_error", "policy_violation")
    answer = requests.post(
        f"{setting.gateway.url}/v1/messages", data=b"{", headers={"x-api-key": setting.text}, timeout=20
    )
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert not UsageRecord.objects.filter(api_key_id=setting.key.id).exists()


def test_limits_are_told_as_the_client_expects_them(gateway: GatewayProcess, stack: Stack) -> None:
    basic = Setting(gateway, stack, "openai", tier="basic")
    Entitlement.objects.filter(consumer=basic.key.consumer).update(requests_per_second=1)

    def call_until_refused() -> None:
        for _ in range(60):
            basic.create(max_tokens=5)

    with pytest.raises(anthropic.RateLimitError) as limited:
        call_until_refused()
    assert (limited.value.type, limited.value.error_code) == ("rate_limit_error", "rate_limited")
    assert limited.value.response.headers["retry-after"] == "1"


def test_an_upstream_that_fails_is_told_as_such_and_is_not_to_be_asked_again(
    gateway: GatewayProcess, stack: Stack
) -> None:
    """The path is one that the sample upstream does not know: it answers 404."""
    setting = Setting(gateway, stack, "anthropic")
    with transaction.atomic():  # the gateway hears of the service with its endpoint, or not at all
        gone = factories.make_service()
        factories.make_endpoint(gone, base_url=f"{stack.upstream_url}/nowhere", protocol="anthropic")
        _, text = factories.make_key(service=gone)
    gateway.wait_for_service(gone.id, text)
    client = anthropic.Anthropic(base_url=gateway.url, api_key=text, max_retries=2)
    with pytest.raises(anthropic.InternalServerError) as failed:
        client.messages.create(model=gone.name, max_tokens=5, messages=QUESTION)
    assert (failed.value.status_code, failed.value.error_code) == (502, "upstream_failed")
    assert failed.value.response.headers["x-should-retry"] == "false"
    row = ledger_row(str(failed.value.request_id))
    assert (row.status, row.cost_amount) == ("error", Decimal(0))
    assert UsageRecord.objects.filter(service_id=gone.id).count() == 1
    assert setting.create().content


@pytest.fixture(scope="module")
def hostile_address() -> Iterator[str]:
    with hostile.hostile_upstream() as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


def test_what_had_to_be_counted_is_told_as_it_is_on_record(
    stack: Stack, lane_gateway: GatewayProcess, hostile_address: str
) -> None:
    """The upstream speaks OpenAI's protocol and reports no usage: eight words, and the space after the last."""
    setting = Setting(lane_gateway, stack, "openai", base_url=f"{hostile_address}/stream-without-usage")
    with setting.client.messages.stream(model=setting.name, max_tokens=100, messages=QUESTION) as stream:
        message = stream.get_final_message()
    [block] = message.content
    assert block.type == "text"
    assert block.text == "one " * 8
    row = setting.only_row()
    assert (row.status, row.usage["usage_source"], row.usage["completion_tokens"]) == (
        "success",
        "estimated",
        9,
    )
    assert (message.usage.input_tokens, message.usage.output_tokens) == (row.usage["prompt_tokens"], 9)
    assert row.usage["prompt_tokens"] == 6 + 5 + 4, "its words, around the message, around them all"


@pytest.mark.parametrize("behaviour", ["messages-cut", "messages-garbage", "messages-error", "messages-done"])
def test_a_stream_that_breaks_off_is_an_error_and_what_was_delivered_is_charged(
    stack: Stack, lane_gateway: GatewayProcess, hostile_address: str, behaviour: str
) -> None:
    setting = Setting(lane_gateway, stack, "anthropic", base_url=f"{hostile_address}/{behaviour}")
    stream = setting.create(stream=True)
    seen = [next(stream).type for _ in range(10)]
    assert seen == ["message_start", "content_block_start", *["content_block_delta"] * 8]
    with pytest.raises(anthropic.APIStatusError) as broken:
        next(stream)
    assert broken.value.error_code == "upstream_failed"
    assert "secret" not in str(broken.value)
    row = setting.only_row()
    assert (row.status, row.error) == ("error", {"code": "upstream_failed"})
    assert (row.usage["usage_source"], row.usage["prompt_tokens"], row.usage["completion_tokens"]) == (
        "estimated",
        9,
        9,
    )
    assert row.cost_amount == Decimal("0.0001") * 18
    assert counters(stack, setting.key, setting.service) == {b"used": b"18", b"reserved": b"0"}


@pytest.mark.parametrize(
    "behaviour", ["garbage", "empty", "no-choices", "wrong-types", "deep", "reset-in-the-body"]
)
def test_an_answer_that_is_none_is_told_as_a_failure_and_costs_nothing(
    stack: Stack, lane_gateway: GatewayProcess, hostile_address: str, behaviour: str
) -> None:
    setting = Setting(lane_gateway, stack, "anthropic", base_url=f"{hostile_address}/{behaviour}")
    with pytest.raises(anthropic.InternalServerError) as failed:
        setting.create()
    assert (failed.value.status_code, failed.value.error_code) == (502, "upstream_failed")
    assert failed.value.response.headers["x-should-retry"] == "false"
    assert setting.only_row().cost_amount == 0
    assert counters(stack, setting.key, setting.service) == {b"used": b"0", b"reserved": b"0"}


def test_models_are_listed_in_the_clients_own_form(setting: Setting) -> None:
    [model] = setting.client.models.list()
    assert (model.type, model.id, model.display_name) == ("model", setting.name, setting.name)
    assert model.created_at.year == 1970
    assert [other.id for other in setting.openai.models.list()] == [setting.name]
    stranger = anthropic.Anthropic(base_url=setting.gateway.url, api_key="mk_live_wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError):
        stranger.models.list()


def test_what_nobody_could_bound_or_translate_is_refused_and_not_recorded(setting: Setting) -> None:
    server_tool = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.UnprocessableEntityError) as refused:
        setting.create(tools=[server_tool])
    assert refused.value.error_code == "not_supported"
    choices = {"model": setting.name, "messages": QUESTION, "n": 2}
    if setting.protocol == "anthropic":
        with pytest.raises(openai.UnprocessableEntityError) as several:
            setting.openai.chat.completions.create(**choices)
        assert (several.value.code, several.value.param) == ("not_supported", "n")
    assert not UsageRecord.objects.filter(api_key_id=setting.key.id).exists()


# -- OpenAI's client, and our own API, to an upstream that speaks Anthropic's protocol ---------------------------------


def test_openais_client_gets_a_completion(over_anthropic: Setting) -> None:
    messages: Any = [{"role": "system", "content": "You explain things."}, *QUESTION]
    raw = over_anthropic.openai.chat.completions.with_raw_response.create(
        model=over_anthropic.name, messages=messages, max_tokens=100
    )
    completion = raw.parse()
    choice = completion.choices[0]
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert choice.message.content is not None
    assert choice.message.content.startswith("Explain quantum computing")
    assert completion.usage is not None
    row = over_anthropic.row(raw.headers["x-request-id"])
    assert row.total_tokens == completion.usage.total_tokens


def test_openais_client_gets_a_stream_with_its_usage(over_anthropic: Setting) -> None:
    stream = over_anthropic.openai.chat.completions.create(
        model=over_anthropic.name, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("Explain quantum computing")
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        "stop"
    ]
    usage = chunks[-1].usage
    assert usage is not None
    row = over_anthropic.only_row()
    assert (row.total_tokens, row.status) == (usage.total_tokens, "success")
    assert row.total_tokens == over_anthropic.stack.logged_calls()[str(row.id)]["total_tokens"]


def test_openais_client_gets_its_tools_called(over_anthropic: Setting) -> None:
    function = {"name": "look_up", "parameters": TOOL["input_schema"]}
    asked: Any = {
        "model": over_anthropic.name,
        "messages": QUESTION,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
    }
    choice = over_anthropic.openai.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call: Any = choice.message.tool_calls[0]
    assert json.loads(call.function.arguments)["text"].startswith("Explain quantum")
    with over_anthropic.openai.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0].message
    assert streamed.tool_calls is not None
    assert streamed.tool_calls[0].function.arguments == call.function.arguments
    turns = [*QUESTION, choice.message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "42"}]
    after = over_anthropic.openai.chat.completions.create(
        model=over_anthropic.name, messages=turns, tools=asked["tools"]
    )
    assert after.choices[0].message.content


def test_our_own_api_gets_an_answer_too(over_anthropic: Setting) -> None:
    answer = over_anthropic.gateway.consume(
        over_anthropic.service.id,
        over_anthropic.text,
        {"prompt": "Explain quantum computing", "max_tokens": 30},
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["response"]["choices"][0]["text"].startswith("Explain quantum computing")
    row = over_anthropic.row(answer.json()["request_id"])
    assert answer.json()["usage"]["total_tokens"] == row.total_tokens
