"""Whole answers of upstreams: told in the caller's protocol, metered once, and none taken that is no answer."""

from typing import Any

import msgspec
import pytest

from catalog.pricing import Tokens
from consumption.errors import UpstreamFailed
from consumption.protocols.anthropic import usage_inside
from consumption.protocols.exchanges import auth_headers, exchange_of
from consumption.replies import Bounds, Reply, meter
from tests.consumption.protocols.callers import BOUNDS, chat, message

USAGE = {
    "input_tokens": 10, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 5,
    "output_tokens_details": {"thinking_tokens": 3},
}  # fmt: skip
TEXT = {"type": "text", "text": "Hello"}
USE = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}}


def a_message(*content: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": list(content),
        "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE, **more,
    }  # fmt: skip


def a_completion(message: Any, finish_reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {
        "id": "c1",
        "model": "gpt",
        "choices": [{"message": message, "finish_reason": finish_reason}],
        **more,
    }


def answered(request: Any, protocol: str, document: Any, bounds: Bounds = BOUNDS) -> Reply:
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return exchange_of(request, protocol).reply(body, bounds)


def told(request: Any, protocol: str, document: Any) -> dict[str, Any]:
    raw: dict[str, Any] = msgspec.json.decode(answered(request, protocol, document).raw)
    return raw


def test_where_both_speak_the_same_the_bytes_are_passed_on() -> None:
    usage = b'"usage":{"input_tokens":3,"output_tokens":2}'
    body = b'{ "type":"message", "content":[{"type":"server_stuff","x":1}], %b}' % usage
    reply = answered(message(), "anthropic", body)
    assert (reply.raw, reply.tokens, reply.usage_source) == (body, Tokens(3, 2), "reported")
    body = msgspec.json.encode(
        a_completion({"content": "x"}, usage={"prompt_tokens": 3, "completion_tokens": 2})
    )
    assert answered(chat(), "openai", body).raw is body


def test_anthropic_counts_the_cache_beside_the_input_and_the_ledger_inside_the_prompt() -> None:
    for request in (message(), chat()):
        reply = answered(request, "anthropic", a_message(TEXT))
        assert reply.tokens == Tokens(prompt=16, completion=5, cached=4, reasoning=3, cache_write=2)
        assert reply.usage_source == "reported"


def test_a_message_is_told_as_a_completion() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    completion = told(chat(), "anthropic", a_message(thought, TEXT, {"type": "text", "text": "!"}, USE))
    assert completion.pop("created") > 1_700_000_000
    arguments = {"name": "look", "arguments": '{"at":1}'}
    assert completion == {
        "id": "msg_1",
        "object": "chat.completion",
        "model": "claude",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello!",
                    "tool_calls": [{"id": "t1", "type": "function", "function": arguments}],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 16,
            "completion_tokens": 5,
            "total_tokens": 21,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
    }
    reply = answered(chat(), "anthropic", a_message(TEXT))
    assert [(choice.written, choice.finish_reason) for choice in reply.choices] == [("Hello", "stop")]


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"),
        ("refusal", "content_filter"), ("model_context_window_exceeded", "length"), ("new", "stop"), (None, "stop"),
    ],
)  # fmt: skip
def test_why_a_message_ended(stop_reason: str | None, finish_reason: str) -> None:
    completion = told(chat(), "anthropic", a_message(TEXT, stop_reason=stop_reason))
    assert completion["choices"][0]["finish_reason"] == finish_reason


def test_a_completion_is_told_as_a_message() -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
    usage = {"prompt_tokens": 16, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    completion = a_completion({"content": "Hello", "tool_calls": [call]}, "tool_calls", usage=usage)
    assert told(message(), "openai", completion) == {
        "id": "c1",
        "type": "message",
        "role": "assistant",
        "model": "gpt",
        "content": [TEXT, USE],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }


@pytest.mark.parametrize(
    ("finish_reason", "stop_reason"),
    [
        ("stop", "end_turn"), ("length", "max_tokens"), ("tool_calls", "tool_use"), ("content_filter", "refusal"),
        ("function_call", "tool_use"), ("new", "end_turn"), (None, "end_turn"),
    ],
)  # fmt: skip
def test_why_a_completion_ended(finish_reason: str | None, stop_reason: str) -> None:
    answer = told(message(), "openai", a_completion({"content": "x"}, finish_reason))
    assert answer["stop_reason"] == stop_reason


def test_arguments_that_were_cut_off_are_paid_for_and_told_as_such() -> None:
    call = {"id": "t1", "function": {"name": "look", "arguments": '{"at": "ha'}}
    answer = told(message(), "openai", a_completion({"tool_calls": [call]}, "length"))
    assert answer["content"] == [{**USE, "input": {"INVALID_JSON": '{"at": "ha'}}]
    assert answer["stop_reason"] == "max_tokens"


def test_ids_are_made_where_an_upstream_gives_none() -> None:
    call = {"function": {"name": "look"}}
    answer = told(message(), "openai", {"choices": [{"message": {"tool_calls": [call]}}]})
    assert answer["id"].startswith("msg_")
    assert answer["content"][0]["id"].startswith("toolu_")
    assert answer["content"][0]["input"] == {}
    assert told(chat(), "anthropic", {"type": "message", "content": []})["id"].startswith("chatcmpl-")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b"{}", b'{"type":"message"}', b'{"type":"error","error":{}}',
        b'{"type":"message","content":"text"}', b'{"type":"message","content":[5]}',
        b'{"content":[]}', b'{"type":"completion","content":[]}', b'{"type":"message","content":[{"text":"no type"}]}',
        b'{"type":"message","content":[{"type":"text","text":5}]}',
        b'{"type":"message","content":[{"type":"tool_use","input":"text"}]}',
        b'{"type":"message","content":[],"stop_reason":5}', b'{"type":"message","content":[' + b"[" * 100_000,
        b'{"type":"message","content":[{"type":"text","text":"\xff"}]}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("request_", [message(), chat()], ids=["message", "chat"])
def test_what_is_no_message_is_a_failure_of_the_upstream(request_: Any, body: bytes) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        answered(request_, "anthropic", body)
    assert failed.value.reached_upstream, "it may have worked: nobody should ask again by themselves"


def test_a_tool_use_without_a_name_is_no_answer_to_who_needs_it_translated() -> None:
    with pytest.raises(UpstreamFailed):
        answered(chat(), "anthropic", a_message({"type": "tool_use", "id": "t1"}))


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b'{"choices":[]}', b'{"choices":[{"text":"x"}]}', b'{"choices":[{"message":"x"}]}',
        b'{"choices":[{"message":{"content":"x"}}],"id":5}', b'{"data":[1]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":5}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}',
        b'{"choices":[{"message":{"tool_calls":[{}]}}]}',
    ],
)  # fmt: skip
def test_what_is_no_completion_is_a_failure_of_the_upstream(body: bytes) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        answered(message(), "openai", body)
    assert failed.value.reached_upstream


@pytest.mark.parametrize(
    "usage",
    [
        None, "many", [], {}, {"input_tokens": 5}, {"output_tokens": 5}, {**USAGE, "input_tokens": -1},
        {**USAGE, "input_tokens": True}, {**USAGE, "cache_read_input_tokens": 1.5}, {**USAGE, "output_tokens": "5"},
        {**USAGE, "cache_creation_input_tokens": [1]}, {**USAGE, "cache_read_input_tokens": -4},
    ],
)  # fmt: skip
def test_a_usage_that_cannot_be_is_counted_here(usage: Any) -> None:
    reply = answered(message(), "anthropic", a_message(TEXT, USE, usage=usage))
    assert reply.usage_source == "estimated"
    assert reply.tokens == Tokens()
    assert reply.written is not None
    assert [text.replace(" ", "") for text in reply.written.answers] == ['Hellolook{"at":1}']


def test_an_answer_in_another_protocol_tells_what_was_counted() -> None:
    over_openai = answered(
        message(), "openai", msgspec.json.encode({"choices": [{"message": {"content": "Hi"}}]})
    )
    assert over_openai.written is not None
    told = msgspec.json.decode(over_openai.with_tokens(Tokens(9, 2)).raw)
    assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (9, 2)

    over_anthropic = answered(chat(), "anthropic", a_message(TEXT, usage=None))
    assert over_anthropic.written is not None
    told = msgspec.json.decode(over_anthropic.with_tokens(Tokens(9, 2)).raw)
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (9, 2)


def test_a_usage_beyond_what_was_reserved_is_bounded_and_flagged() -> None:
    huge = {"input_tokens": 10**30, "output_tokens": 10**30, "cache_read_input_tokens": 10**30}
    reply = answered(message(), "anthropic", a_message(TEXT, usage=huge))
    assert (reply.tokens, reply.usage_source) == (Tokens(10_000, 1_000, 10_000), "clamped")


def test_details_that_are_missing_or_odd_count_nothing() -> None:
    usage = usage_inside({"input_tokens": 1, "output_tokens": 2, "output_tokens_details": 7})
    assert meter(usage, BOUNDS) == (Tokens(1, 2), "reported")
    assert usage_inside({"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": None}) == {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": None},
    }


def test_an_upstream_is_told_who_calls_in_its_own_way() -> None:
    assert auth_headers("openai", "sesame") == [(b"authorization", b"Bearer sesame")]
    assert auth_headers("openai", None) == []
    version = (b"anthropic-version", b"2023-06-01")
    assert auth_headers("anthropic", "sesame") == [(b"x-api-key", b"sesame"), version]
    assert auth_headers("anthropic", None) == [version]
