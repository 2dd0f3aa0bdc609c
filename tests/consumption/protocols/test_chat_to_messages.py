"""Requests in OpenAI's chat format, as an upstream of Anthropic's protocol gets them."""

from typing import Any

import pytest

from consumption.dialects import openai
from consumption.errors import NotSupported
from consumption.protocols.exchanges import exchange_of
from tests.consumption.protocols.callers import chat, read, upstream_body

#: It can be read alone, and then no more be written as a part of something.
DEEP = '{"a":' * 900 + "1" + "}" * 900


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_the_plain_request() -> None:
    assert upstream_body(chat("Hi"), "anthropic") == {
        "model": "upstream-model",
        "max_tokens": 7,
        "messages": [user([text("Hi")])],
    }
    assert exchange_of(chat("Hi"), "anthropic").path == "/messages"


def test_a_stream_stays_one() -> None:
    body = upstream_body(chat("Hi", stream=True), "anthropic")
    assert body["stream"] is True
    assert "stream_options" not in body


def test_the_systems_words_are_kept_apart_wherever_they_stood() -> None:
    body = upstream_body(
        chat({"role": "system", "content": "One"}, "Hi", {"role": "developer", "content": [text("Two")]}),
        "anthropic",
    )
    assert body["system"] == [text("One"), text("Two")]
    assert body["messages"] == [user([text("Hi")])]


def test_images_and_files_are_blocks() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
        text(""),
        text("What?"),
    ]
    [turn] = upstream_body(chat(user(content)), "anthropic")["messages"]
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
    assert turn["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        text("What?"),
    ]


def test_calls_and_tool_messages_become_tool_use_and_results_in_one_turn() -> None:
    def call(name: str, arguments: str) -> dict[str, Any]:
        return {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}

    body = upstream_body(
        chat(
            "Hi",
            {"role": "assistant", "content": "I look", "tool_calls": [call("a", '{"x": 1}'), call("b", "")]},
            {"role": "tool", "tool_call_id": "a", "content": "one"},
            {"role": "tool", "tool_call_id": "b", "content": ""},
            "and now?",
        ),
        "anthropic",
    )
    assert body["messages"] == [
        user([text("Hi")]),
        {
            "role": "assistant",
            "content": [
                text("I look"),
                {"type": "tool_use", "id": "a", "name": "a", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "b", "input": {}},
            ],
        },
        user(
            [
                {"type": "tool_result", "tool_use_id": "a", "content": [text("one")]},
                {"type": "tool_result", "tool_use_id": "b", "content": []},
                text("and now?"),
            ]
        ),
    ]


def test_tools_and_their_choice() -> None:
    function = {"name": "look", "description": "Looks", "parameters": {"type": "object"}, "strict": True}
    tools = [{"type": "function", "function": function}, {"type": "function", "function": {"name": "bare"}}]
    body = upstream_body(chat("Hi", tools=tools), "anthropic")
    assert body["tools"] == [
        {"name": "look", "description": "Looks", "input_schema": {"type": "object"}, "strict": True},
        {"name": "bare", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tool_choice" not in body

    def chosen(**more: Any) -> Any:
        return upstream_body(chat("Hi", tools=tools, **more), "anthropic").get("tool_choice")

    assert chosen(tool_choice="auto") == {"type": "auto"}
    assert chosen(tool_choice="required") == {"type": "any"}
    assert chosen(tool_choice="none", parallel_tool_calls=False) == {"type": "none"}
    assert chosen(parallel_tool_calls=True) is None
    assert chosen(parallel_tool_calls=False) == {"type": "auto", "disable_parallel_tool_use": True}
    named = {"type": "function", "function": {"name": "look"}}
    assert chosen(tool_choice=named) == {"type": "tool", "name": "look"}
    assert "tool_choice" not in upstream_body(chat("Hi", tool_choice="auto"), "anthropic")


def test_options_are_renamed_bounded_or_left_out() -> None:
    options: dict[str, Any] = {
        "stop": ["END", " "], "temperature": 1.7, "top_p": 0.5, "top_k": 3, "user": "u", "seed": 5, "n": 1,
        "presence_penalty": 1, "logit_bias": {"5": 1}, "thinking": {"type": "disabled"}, "some_field": [1],
    }  # fmt: skip
    body = upstream_body(chat("Hi", **options), "anthropic")
    assert {name: body[name] for name in body if name not in {"model", "messages", "max_tokens"}} == {
        "stop_sequences": ["END"], "temperature": 1.0, "top_p": 0.5, "top_k": 3, "metadata": {"user_id": "u"},
        "thinking": {"type": "disabled"},
    }  # fmt: skip
    assert upstream_body(chat("Hi", stop="END"), "anthropic")["stop_sequences"] == ["END"]


def test_the_cap_is_the_lease_whatever_it_was_called() -> None:
    assert upstream_body(chat("Hi", max_completion_tokens=90), "anthropic")["max_tokens"] == 7
    assert "max_completion_tokens" not in upstream_body(chat("Hi", max_completion_tokens=90), "anthropic")


def test_json_is_asked_for_in_the_ways_there_are() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    body = upstream_body(chat("Hi", response_format=schema), "anthropic")
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    body = upstream_body(chat("Hi", response_format={"type": "json_object"}), "anthropic")
    assert body["system"] == [text("Answer with one JSON object and nothing else.")]
    assert "system" not in upstream_body(chat("Hi", response_format={"type": "text"}), "anthropic")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
)
def test_what_would_make_another_answer_is_refused_by_its_name(more: dict[str, Any], field: str) -> None:
    with pytest.raises(NotSupported) as refused:
        exchange_of(chat("Hi", **more), "anthropic")
    assert (refused.value.status, refused.value.code, refused.value.extra["field"]) == (
        422,
        "not_supported",
        field,
    )


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "function", "name": "f", "content": "x"}],
        [user([{"type": "input_audio", "input_audio": {}}])],
        [user([{"type": "image_url", "image_url": {"url": "ftp://example.com/a.png"}}])],
        [user([{"type": "file", "file": {"file_id": "f"}}])],
        [user([{"type": "file", "file": {"file_data": "https://example.com/a.pdf"}}])],
        [user(5)],
        [user("")],
        [{"role": "system", "content": "alone"}],
        [{"role": "tool", "content": "to no call"}],
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[1]"}}]}],
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}],
        [
            {
                "role": "assistant",
                "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[" * 9999}}],
            }
        ],
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": DEEP}}]}],
    ],
)
def test_what_cannot_be_said_in_anthropics_protocol_is_refused(messages: list[Any]) -> None:
    with pytest.raises(NotSupported):
        exchange_of(chat(*messages), "anthropic")


@pytest.mark.parametrize(
    "more", [{"tools": [{"type": "custom"}]}, {"tool_choice": "some"}, {"stop": 5}, {"user": 5}]
)
def test_options_of_the_wrong_type_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(NotSupported):
        exchange_of(chat("Hi", **more), "anthropic")


def test_only_chats_can_go_to_an_upstream_of_anthropics_protocol() -> None:
    embeddings = read(openai.EMBEDDINGS, {"model": "m", "input": "Hi"})
    completions = read(openai.COMPLETIONS, {"model": "m", "prompt": "Hi"})
    for request in (embeddings, completions):
        with pytest.raises(NotSupported):
            exchange_of(request, "anthropic")
        assert exchange_of(request, "openai").path == request.path
