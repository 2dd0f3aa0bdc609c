"""Requests in Anthropic's protocol, as an upstream of OpenAI's gets them."""

from typing import Any

import pytest

from consumption.errors import NotSupported
from consumption.protocols.exchanges import exchange_of
from tests.consumption.protocols.callers import message, upstream_body

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
LINKED = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def said(*messages: Any, **more: Any) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = upstream_body(message(*messages, **more), "openai")["messages"]
    return turns


def test_the_plain_request() -> None:
    assert upstream_body(message("Hi"), "openai") == {
        "model": "upstream-model",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
    }
    assert exchange_of(message("Hi"), "openai").path == "/chat/completions"


def test_a_stream_asks_for_its_usage() -> None:
    body = upstream_body(message("Hi", stream=True), "openai")
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize("system", ["Be brief", [text("Be brief")]])
def test_the_system_comes_first(system: Any) -> None:
    assert said("Hi", system=system)[0] == {"role": "system", "content": "Be brief"}


def test_blocks_of_text_alone_are_one_text() -> None:
    assert said({"role": "user", "content": [text("one"), text("two")]}) == [
        {"role": "user", "content": "one\ntwo"}
    ]


def test_images_and_documents_are_parts() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    plain = {"type": "text", "media_type": "text/plain", "data": "a note"}
    content = [
        IMAGE, LINKED, {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": plain}, text("What?"),
    ]  # fmt: skip
    [turn] = said({"role": "user", "content": content})
    assert turn["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
        text("a note"),
        text("What?"),
    ]


def test_tool_use_and_results_become_calls_and_tool_messages() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "é"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [text("seen"), IMAGE]},
        {"type": "tool_result", "tool_use_id": "t2", "content": "plain", "is_error": True},
        {"type": "tool_result", "tool_use_id": "t3"},
        text("and now?"),
    ]
    turns = said(
        "Hi",
        {"role": "assistant", "content": [thought, text("I look"), use]},
        {"role": "user", "content": results},
    )
    assert turns[1] == {
        "role": "assistant",
        "content": "I look",
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":"é"}'}}
        ],
    }
    assert turns[2:5] == [
        {"role": "tool", "tool_call_id": "t1", "content": "seen"},
        {"role": "tool", "tool_call_id": "t2", "content": "plain"},
        {"role": "tool", "tool_call_id": "t3", "content": ""},
    ]
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert turns[5] == {"role": "user", "content": [image, text("and now?")]}
    assert len(turns) == 6


def test_an_assistant_that_only_called_said_nothing() -> None:
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    assert said("Hi", {"role": "assistant", "content": [use]})[1]["content"] is None


def test_tools_and_their_choice() -> None:
    tool = {"name": "look", "description": "Looks", "input_schema": {"type": "object"}, "cache_control": {}}
    body = upstream_body(message("Hi", tools=[tool]), "openai")
    function = {"name": "look", "description": "Looks", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert "tool_choice" not in body

    def chosen(**choice: Any) -> tuple[Any, Any]:
        body = upstream_body(message("Hi", tools=[tool], tool_choice=choice), "openai")
        return body["tool_choice"], body.get("parallel_tool_calls")

    assert chosen(type="auto") == ("auto", None)
    assert chosen(type="any", disable_parallel_tool_use=True) == ("required", False)
    assert chosen(type="none") == ("none", None)
    assert chosen(type="tool", name="look") == ({"type": "function", "function": {"name": "look"}}, None)


def test_options_are_renamed_and_thinking_is_left_out() -> None:
    options: dict[str, Any] = {
        "stop_sequences": ["END"], "temperature": 0, "top_p": 0.5, "top_k": 3, "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    }  # fmt: skip
    body = upstream_body(message("Hi", **options), "openai")
    assert {name: body[name] for name in body if name not in {"model", "messages", "max_tokens"}} == {
        "stop": ["END"], "temperature": 0, "top_p": 0.5, "top_k": 3, "user": "u",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "image", "source": {"type": "file", "file_id": "f"}}],
        [{"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}}],
        [{"type": "search_result", "content": []}],
        [{"type": "nobody_knows"}],
        [{"text": "no type"}],
        ["no block"],
        [{"type": "text", "text": 5}],
        [{"type": "tool_use", "id": "t", "name": "n", "input": {}}],
        5,
        None,
    ],
)
def test_what_cannot_be_said_in_openais_protocol_is_refused_before_anything_is_sent(content: Any) -> None:
    with pytest.raises(NotSupported) as refused:
        exchange_of(message({"role": "user", "content": content}), "openai")
    assert (refused.value.status, refused.value.code) == (422, "not_supported")


@pytest.mark.parametrize(
    "more",
    [
        {"stop_sequences": "END"},
        {"top_k": "many"},
        {"tools": [{"name": "bash", "type": "bash_20250124"}]},
        {"tools": [{"name": "without a schema"}]},
        {"tools": [{"name": "a", "input_schema": {}}], "tool_choice": {"type": "some"}},
        {"system": [IMAGE]},
        {"output_config": {"format": {"type": "grammar"}}},
        {"metadata": {"user_id": 5}},
    ],
)
def test_options_of_the_wrong_type_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(NotSupported):
        exchange_of(message("Hi", **more), "openai")
