"""A stream whose upstream leaves out the protocol's last word: whole where nothing else is missing, else cut."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest
from django.db import transaction

from metering.models import UsageRecord
from tests import factories
from tests.harness import hostile
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack
from tests.live.test_contract import counters

QUESTION: Any = [{"role": "user", "content": "Explain quantum computing in simple terms"}]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with hostile.hostile_upstream() as server:
        yield server


class Setting:
    """A service whose upstream behaves in one way, and the official clients with a key for it."""

    def __init__(self, gateway: GatewayProcess, upstream: Any, behaviour: str) -> None:
        host, port = upstream.server_address
        protocol = "anthropic" if behaviour.startswith("messages") else "openai"
        with transaction.atomic():  # the gateway hears of the service with its endpoint, or not at all
            self.service = factories.make_service()
            factories.make_endpoint(
                self.service, base_url=f"http://{host}:{port}/{behaviour}", protocol=protocol
            )
        self.key, text = factories.make_key(service=self.service)
        self.openai = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=text, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=gateway.url, api_key=text, max_retries=0)
        gateway.wait_for_service(self.service.id, text)

    def chat(self, **more: Any) -> Any:
        return self.openai.chat.completions.create(
            model=self.service.name, messages=QUESTION, stream=True, max_tokens=100, **more
        )

    def message(self) -> Any:
        return self.anthropic.messages.stream(model=self.service.name, messages=QUESTION, max_tokens=100)

    def row(self) -> UsageRecord:
        wait_for(lambda: UsageRecord.objects.filter(api_key_id=self.key.id).exists(), seconds=10)
        return UsageRecord.objects.get(api_key_id=self.key.id)


FINISHED = ["stream-finished", "stream-finished-and-closed", "stream-totalled", "messages-finished"]
CUT = [
    "stream-half-finished", "stream-finished-and-cut", "stream-finished-and-reset", "stream-finished-short",
    "messages-unfinished",
]  # fmt: skip


@pytest.mark.parametrize("behaviour", FINISHED)
def test_a_stream_that_lacks_its_last_word_alone_is_whole(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, behaviour: str
) -> None:
    setting = Setting(lane_gateway, upstream, behaviour)
    with setting.chat(stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    row = setting.row()
    assert (row.status, row.usage["usage_source"], row.error) == ("success", "reported", None)
    assert chunks[-1].usage.total_tokens == row.total_tokens > 10
    assert row.cost_amount == Decimal("0.0001") * row.total_tokens
    used = {b"used": str(row.total_tokens).encode(), b"reserved": b"0"}
    assert counters(stack, setting.key, setting.service) == used


@pytest.mark.parametrize("behaviour", ["stream-finished", "messages-finished"])
def test_anthropics_client_gets_its_message_whole(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, behaviour: str
) -> None:
    setting = Setting(lane_gateway, upstream, behaviour)
    with setting.message() as stream:
        events = [event.type for event in stream]
        message = stream.get_final_message()
    assert events[-1] == "message_stop"
    assert message.stop_reason == "end_turn"
    assert setting.row().usage["completion_tokens"] == message.usage.output_tokens > 0


def test_what_ends_without_usage_is_counted(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any
) -> None:
    setting = Setting(lane_gateway, upstream, "stream-finished-uncounted")
    with setting.chat() as stream:
        assert [chunk.choices[0].finish_reason for chunk in stream] == [None, "stop"]
    row = setting.row()
    assert (row.status, row.usage["usage_source"]) == ("success", "estimated")
    assert row.usage["completion_tokens"] == 2


@pytest.mark.parametrize("behaviour", CUT)
def test_a_stream_that_lacks_more_is_cut(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, behaviour: str
) -> None:
    setting = Setting(lane_gateway, upstream, behaviour)
    with setting.chat() as stream, pytest.raises(openai.APIError) as broken:
        list(stream)
    assert broken.value.code == "upstream_failed"
    row = setting.row()
    assert (row.status, row.error) == ("error", {"code": "upstream_failed"})
    assert row.total_tokens > 0, "what was delivered is charged"
    assert counters(stack, setting.key, setting.service) == {
        b"used": str(row.total_tokens).encode(),
        b"reserved": b"0",
    }
