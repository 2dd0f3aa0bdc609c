"""How a caller of Anthropic's API is read: what is refused, what a call can cost at most, and what goes upstream."""

from typing import Any

import msgspec
import pytest

from common.errors import InvalidField
from consumption.dialects import anthropic
from consumption.dialects.base import (
    DOCUMENT_TOKENS,
    IMAGE_TOKENS,
    TEMPLATE_TOKENS,
    TEMPLATE_TOKENS_PER_MESSAGE,
    TOOLS_TOKENS,
)
from consumption.errors import NotSupported, UpstreamFailed
from tests.consumption.protocols.callers import chat, message, read

BODY: dict[str, Any] = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
PLAIN = TEMPLATE_TOKENS + TEMPLATE_TOKENS_PER_MESSAGE


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": None}, "model"), ({"model": 5}, "model"), ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": True}, "max_tokens"), ({"max_tokens": "9"}, "max_tokens"),
        ({"messages": None}, "messages"), ({"messages": []}, "messages"), ({"messages": ["Hi"]}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages"), ({"stream": "yes"}, "stream"), ({"system": 5}, "system"),
        ({"temperature": 1.1}, "temperature"), ({"temperature": "hot"}, "temperature"), ({"top_p": -1}, "top_p"),
        ({"metadata": []}, "metadata"), ({"metadata": {"user_id": "x" * 1024}}, "metadata"),
        ({"tools": {}}, "tools"), ({"tools": ["look"]}, "tools"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidField) as refused:
        read(anthropic.MESSAGES, {**BODY, **changes})
    assert (refused.value.code, refused.value.status) == ("invalid_field", 422)
    assert refused.value.extra["field"] == field


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
        {"tools": [{"type": "nobody_knows_20300101", "name": "x"}]},
        {"tools": [{"type": "computer_toolset_20260801"}]},
        {"tools": [{"type": ["custom"], "name": "x"}]},
        {"mcp_servers": [{"url": "https://example.com"}]},
        {"container": "c"},
    ],
)
def test_what_runs_at_the_upstream_cannot_be_bounded_and_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(NotSupported):
        read(anthropic.MESSAGES, {**BODY, **changes})


def test_texts_are_bounded_by_their_bytes() -> None:
    assert message("Hé").prompt_bound() == PLAIN + 3
    block = {"type": "text", "text": "Hi"}
    size = len(msgspec.json.encode(block))
    assert message({"role": "user", "content": [block]}).prompt_bound() == PLAIN + size
    assert message("Hi", system="abc").prompt_bound() == PLAIN + 2 + 3
    assert message("Hi", system=[block]).prompt_bound() == PLAIN + 2 + size
    assert message("Hi", "Ho").prompt_bound() == PLAIN + 4 + TEMPLATE_TOKENS_PER_MESSAGE


def test_images_and_documents_are_bounded_by_what_they_may_show_wherever_they_are() -> None:
    def bound(*content: Any) -> int:
        return message({"role": "user", "content": list(content)}).prompt_bound() - PLAIN

    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 99_999}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 500}}
    assert bound(image, image) == 2 * IMAGE_TOKENS
    assert bound(pdf) == DOCUMENT_TOKENS
    assert bound({"type": "document", "source": {"type": "file", "file_id": "f"}}) == DOCUMENT_TOKENS
    assert bound({"type": "document"}) == DOCUMENT_TOKENS
    assert 500 < bound(plain) < 700
    nested = {"type": "document", "source": {"type": "content", "content": [image]}}
    assert bound(nested) == IMAGE_TOKENS
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image, pdf]}
    assert IMAGE_TOKENS + DOCUMENT_TOKENS < bound(result) < IMAGE_TOKENS + DOCUMENT_TOKENS + 100
    assert bound(5) == 1
    assert bound({"type": 5}) > 0


def test_tools_are_bounded_with_what_the_upstream_adds() -> None:
    tool = {"name": "look", "input_schema": {"type": "object"}}
    size = len(msgspec.json.encode([tool]))
    assert message("Hi", tools=[tool]).prompt_bound() == PLAIN + 2 + TOOLS_TOKENS + size
    bash = {"type": "bash_20250124", "name": "bash"}
    size = len(msgspec.json.encode([tool, bash]))
    assert message("Hi", tools=[tool, bash]).prompt_bound() == PLAIN + 2 + 2 * TOOLS_TOKENS + size


@pytest.mark.parametrize("tools", [5, "look", {"a": 1}, ["look"], [{"type": ["x"]}]])
def test_odd_tools_of_openais_callers_are_bounded_too(tools: Any) -> None:
    assert chat("Hi", tools=tools).prompt_bound() > chat("Hi").prompt_bound() + TOOLS_TOKENS


def test_files_of_openais_callers_are_bounded_by_what_they_may_show() -> None:
    part = {"type": "file", "file": {"file_id": "f"}}
    assert chat({"role": "user", "content": [part]}).prompt_bound() > DOCUMENT_TOKENS


def test_other_fields_are_bounded_too() -> None:
    assert message("Hi", some_field="x" * 100).prompt_bound() == PLAIN + 2 + 102


def test_an_upstream_of_the_same_protocol_gets_every_field_but_our_own() -> None:
    more = {"thinking": {"type": "adaptive"}, "some_field": [1], "stream": True}
    request = message("Hi", **more, metadata={"user_id": "u", "data_classification": "public"})
    assert request.metadata == {"user_id": "u", "data_classification": "public"}
    assert msgspec.json.decode(request.upstream_body(model="up", output_cap=7)) == {
        **BODY, **more, "model": "up", "max_tokens": 7, "metadata": {"user_id": "u"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (NotSupported(field="n"), 422, "invalid_request_error"),
        (UpstreamFailed(), 502, "api_error"),
    ],
)
def test_errors_have_anthropics_shape_and_our_code(error: Any, status: int, kind: str) -> None:
    answer = anthropic.MESSAGES.problem(error, "r-1")
    assert answer.status == status
    document = msgspec.json.decode(answer.body)
    assert (document["type"], document["request_id"]) == ("error", "r-1")
    assert (document["error"]["type"], document["error"]["message"]) == (kind, error.detail)
    assert document["error"]["details"]["error_code"] == error.code


def test_a_broken_stream_ends_with_an_error_and_never_with_the_end_of_a_message() -> None:
    event = anthropic.MESSAGES.broken(UpstreamFailed(), "r-1")
    assert event.startswith(b'event: error\ndata: {"type":"error","error":{"type":"api_error"')
    assert b"message_stop" not in event
