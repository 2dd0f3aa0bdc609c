"""Streams of upstreams, event by event: told in the caller's protocol, metered, and never taken for whole when cut."""

from typing import Any

import msgspec
import pytest

from catalog.pricing import Tokens
from consumption import sse
from consumption.errors import UpstreamFailed
from consumption.protocols.base import StreamReader
from consumption.protocols.exchanges import exchange_of
from consumption.protocols.messages_over_openai import MOST_TOOL_CALLS
from consumption.replies import Chunk
from consumption.written import MOST_APART
from tests.consumption.protocols.callers import BOUNDS, chat, events_of, feed, message

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [],
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 4, "output_tokens": 1},
    },
}  # fmt: skip
STOP = {"type": "message_stop"}
PING = {"type": "ping"}


def reader(request: Any, protocol: str) -> StreamReader:
    return exchange_of(request, protocol).reader(BOUNDS)


def ended(stream: StreamReader) -> bool:
    return stream.done


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def delta(index: int, **added: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": added}


def block_end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def message_end(stop_reason: str = "end_turn", output: Any = 7) -> dict[str, Any]:
    ended = {"stop_reason": stop_reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": ended, "usage": {"output_tokens": output}}


HELLO = [
    block(0, type="text", text=""), PING, delta(0, type="text_delta", text="Hel"),
    delta(0, type="text_delta", text="lo"), block_end(0),
]  # fmt: skip


# -- Anthropic to Anthropic --------------------------------------------------------------------------------------------


def test_events_are_passed_on_as_they_came_and_the_last_is_held_back() -> None:
    stream = reader(message(), "anthropic")
    odd = b'{"type":"content_block_delta", "index":0,"delta":{"type":"some_delta","x":1.50}}'
    chunks = feed(stream, START, block(0, type="text", text=""), odd)
    assert chunks[2].raw == b"event: content_block_delta\ndata: " + odd + b"\n\n"
    assert feed(stream, {"type": "some_event", "x": 1})
    assert not ended(stream)
    assert [event["type"] for event in events_of(feed(stream, message_end(), STOP))] == ["message_delta"]
    assert ended(stream)
    assert (stream.reply().tokens, stream.reply().usage_source) == (Tokens(14, 7, cached=4), "reported")


def test_an_event_of_several_lines_stays_one_event() -> None:
    [chunk] = feed(reader(message(), "anthropic"), b'{"type":\n"ping"\r}')
    assert chunk.raw == b'event: ping\ndata: {"type": "ping" }\n\n'


@pytest.mark.parametrize("request_", [message(), chat()], ids=["message", "chat"])
def test_what_was_delivered_of_a_stream_that_broke_off_is_counted_here(request_: Any) -> None:
    stream = reader(request_, "anthropic")
    assert (stream.reply().tokens, stream.reply().usage_source) == (Tokens(), "estimated")
    feed(
        stream, START, block(0, type="text", text=""), delta(0, type="text_delta", text="Hel"),
        delta(0, type="text_delta", text="lo"), delta(1, type="thinking_delta", thinking="hm"),
        block(2, type="tool_use", id="t1", name="look", input={}),
        delta(2, type="input_json_delta", partial_json='{"b"'),
    )  # fmt: skip
    reply = stream.reply()
    assert (reply.tokens, reply.usage_source) == (Tokens(14, cached=4), "estimated"), (
        "the prompt was reported"
    )
    assert reply.written is not None
    assert (reply.written.answers, reply.written.thoughts) == (['Hellolook{"b"'], ["hm"])


@pytest.mark.parametrize("request_", [message(), chat()], ids=["message", "chat"])
def test_later_counts_hold_and_odd_ones_are_no_counts(request_: Any) -> None:
    stream = reader(request_, "anthropic")
    last = {**message_end(), "usage": {"input_tokens": 20, "output_tokens": 9, "x": 1}}
    feed(stream, START, *HELLO, last, STOP)
    assert stream.reply().tokens == Tokens(24, 9, cached=4)

    stream = reader(request_, "anthropic")
    feed(stream, START, *HELLO, message_end(output=-5), STOP)
    assert (stream.reply().tokens, stream.reply().usage_source) == (Tokens(), "estimated")
    assert stream.reply().written is not None


@pytest.mark.parametrize("request_", [message(), chat()], ids=["message", "chat"])
@pytest.mark.parametrize(
    "bad",
    [
        b"{nonsense", b"[]", b"{}", b"[DONE]", b'{"type":5}', b'{"type":"ping\\ndata: x"}', b'{"type":""}',
        b'{"type":"message_start","message":5}', b'{"type":"content_block_delta","index":"0"}',
        b'{"type":"content_block_delta","delta":{"text":5}}', b'{"type":"content_block_start","content_block":{}}',
        b'{"type":"error","error":{"type":"overloaded_error","message":"secret"}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_event_ends_the_stream_as_a_failure(request_: Any, bad: bytes) -> None:
    stream = reader(request_, "anthropic")
    feed(stream, START)
    with pytest.raises(UpstreamFailed) as failed:
        stream.read(bad)
    assert failed.value.reached_upstream
    assert not ended(stream)


@pytest.mark.parametrize("request_", [message(), chat()], ids=["message", "chat"])
def test_a_message_that_never_began_does_not_end(request_: Any) -> None:
    for first in (STOP, message_end(), HELLO[0], {"type": "message_start"}):
        stream = reader(request_, "anthropic")
        feed(stream, PING)
        with pytest.raises(UpstreamFailed):
            feed(stream, first)
        assert not ended(stream)


# -- Anthropic to OpenAI -----------------------------------------------------------------------------------------------


def deltas_of(chunks: list[Chunk]) -> list[tuple[dict[str, Any], str | None]]:
    found = []
    for chunk in chunks:
        document = msgspec.json.decode(chunk.raw)
        assert (document["id"], document["object"]) == ("msg_1", "chat.completion.chunk")
        [choice] = document["choices"]
        assert chunk.usage is None
        found.append((choice["delta"], choice["finish_reason"]))
    return found


def test_a_message_becomes_chunks() -> None:
    stream = reader(chat(), "anthropic")
    thought = [
        block(0, type="thinking", thinking=""),
        delta(0, type="thinking_delta", thinking="hm"),
        block_end(0),
    ]
    chunks = feed(stream, START, *thought, *HELLO, message_end("max_tokens"), STOP)
    assert deltas_of(chunks) == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo"}, None),
        ({}, "length"),
    ]
    written = [choice.written for chunk in chunks for choice in chunk.choices or ()]
    assert "".join(written) == "Hello"
    assert ended(stream)
    assert (stream.reply().tokens, stream.reply().usage_source) == (Tokens(14, 7, cached=4), "reported")


def test_tool_use_becomes_calls_in_their_order() -> None:
    stream = reader(chat(), "anthropic")
    chunks = feed(
        stream, START, *HELLO,
        block(1, type="tool_use", id="t1", name="look", input={}),
        delta(1, type="input_json_delta", partial_json=""),
        delta(1, type="input_json_delta", partial_json='{"at":'),
        delta(1, type="input_json_delta", partial_json="1}"),
        block_end(1),
        block(2, type="tool_use", id="t2", name="bare", input={}), block_end(2),
        block(3, type="tool_use", id="t3", name="whole", input={"at": 2}), block_end(3),
        message_end("tool_use"), STOP,
    )  # fmt: skip
    calls = [d["tool_calls"][0] for d, _ in deltas_of(chunks) if "tool_calls" in d]
    assert calls == [
        {"index": 0, "id": "t1", "type": "function", "function": {"name": "look", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"at":'}},
        {"index": 0, "function": {"arguments": "1}"}},
        {"index": 1, "id": "t2", "type": "function", "function": {"name": "bare", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
        {"index": 2, "id": "t3", "type": "function", "function": {"name": "whole", "arguments": '{"at":2}'}},
    ]
    assert deltas_of(chunks)[-1] == ({}, "tool_calls")


@pytest.mark.parametrize(
    "bad",
    [
        [START],
        [{"type": "content_block_start", "index": 0}],
        [{"type": "content_block_delta", "index": 0}],
        [delta(5, type="input_json_delta", partial_json="{")],
        [block(0, type="tool_use", name="without an id")],
        [block(0, type="tool_use", id="t", name="n"), block(0, type="tool_use", id="t", name="n")],
    ],
)
def test_what_makes_no_sense_cannot_be_translated(bad: list[Any]) -> None:
    stream = reader(chat(), "anthropic")
    feed(stream, START)
    with pytest.raises(UpstreamFailed):
        feed(stream, *bad)


# -- OpenAI to Anthropic -----------------------------------------------------------------------------------------------


def a_chunk(finish_reason: str | None = None, index: int = 0, **added: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": added, "finish_reason": finish_reason}
    return {"id": "c1", "model": "gpt", "choices": [choice]}


def piece(index: int, arguments: str, **named: Any) -> dict[str, Any]:
    """A chunk with a piece of a tool's call."""
    name = named.pop("name", None)
    return a_chunk(tool_calls=[{"index": index, **named, "function": {"name": name, "arguments": arguments}}])


REPORTED = {
    "choices": [],
    "usage": {"prompt_tokens": 14, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 4}},
}
NO_USAGE = {
    "input_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 0,
}  # fmt: skip


def test_chunks_become_a_message() -> None:
    stream = reader(message(), "openai")
    chunks = feed(
        stream, a_chunk(role="assistant", content=""), a_chunk(content="Hel"), a_chunk(content="lo")
    )
    chunks += feed(stream, a_chunk("length"), REPORTED)
    assert not ended(stream)
    chunks += feed(stream, sse.DONE)
    assert ended(stream)
    assert events_of(chunks) == [
        {
            "type": "message_start",
            "message": {
                "id": "c1", "type": "message", "role": "assistant", "model": "gpt", "content": [],
                "stop_reason": None, "stop_sequence": None, "usage": NO_USAGE,
            },
        },
        block(0, type="text", text=""),
        delta(0, type="text_delta", text="Hel"),
        delta(0, type="text_delta", text="lo"),
        block_end(0),
        {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": {
                "input_tokens": 10, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4,
                "output_tokens": 7,
            },
        },
    ]  # fmt: skip
    assert (stream.reply().tokens, stream.reply().usage_source) == (Tokens(14, 7, cached=4), "reported")


def test_calls_become_tool_use_also_where_they_are_written_by_turns() -> None:
    stream = reader(message(), "openai")
    events = events_of(
        feed(
            stream, a_chunk(content="I look"), piece(0, "", id="t1", name="look"), piece(1, '{"b"', id="t2", name="b"),
            piece(0, "{}"), piece(1, ":1}"), a_chunk(content="!"), a_chunk("tool_calls"), sse.DONE,
        )
    )  # fmt: skip
    assert events[1:-1] == [
        block(0, type="text", text=""),
        delta(0, type="text_delta", text="I look"),
        block_end(0),
        block(1, type="tool_use", id="t1", name="look", input={}),
        block(2, type="tool_use", id="t2", name="b", input={}),
        delta(2, type="input_json_delta", partial_json='{"b"'),
        delta(1, type="input_json_delta", partial_json="{}"),
        delta(2, type="input_json_delta", partial_json=":1}"),
        block(3, type="text", text=""),
        delta(3, type="text_delta", text="!"),
        block_end(3),
        block_end(1),
        block_end(2),
    ]
    assert events[-1]["delta"]["stop_reason"] == "tool_use"


def test_an_answer_without_a_word_is_a_message_without_content() -> None:
    events = events_of(feed(reader(message(), "openai"), a_chunk("stop"), REPORTED, sse.DONE))
    assert [event["type"] for event in events] == ["message_start", "message_delta"]


def test_without_a_usage_what_was_counted_is_told() -> None:
    stream = reader(message(), "openai")
    feed(stream, a_chunk(content="Hello"), sse.DONE)
    assert stream.reply().usage_source == "estimated"
    [end] = events_of([Chunk(raw=stream.closing(Tokens(9, 2)))])
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (9, 2)


@pytest.mark.parametrize(
    "bad",
    [
        [b"{nonsense"], [{"error": {"message": "secret"}}], [{"id": 5, "choices": []}],
        [a_chunk(content=5)], [piece(0, "{}", id="t1")], [a_chunk(tool_calls=[{"index": "0"}])],
        [piece(n, "", name="look") for n in range(MOST_TOOL_CALLS + 1)], [sse.DONE],
    ],
)  # fmt: skip
def test_what_is_no_chunk_ends_the_stream_as_a_failure(bad: list[Any]) -> None:
    stream = reader(message(), "openai")
    with pytest.raises(UpstreamFailed) as failed:
        feed(stream, *bad)
    assert failed.value.reached_upstream
    assert not ended(stream)


def test_other_choices_than_the_first_are_not_told_but_counted() -> None:
    stream = reader(message(), "openai")
    events = events_of(feed(stream, a_chunk(content="xxxx"), a_chunk(content="yyyy", index=1), sse.DONE))
    assert [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"] == ["xxxx"]
    written = stream.reply().written
    assert written is not None
    assert written.answers == ["xxxx", "yyyy"]


# -- OpenAI to OpenAI --------------------------------------------------------------------------------------------------


def test_chunks_are_passed_on_as_they_came() -> None:
    stream = reader(chat(), "openai")
    data = b'{"choices":[{"index":0,"delta":{"content":"Hi"}}], "x":1}'
    [chunk] = feed(stream, data, sse.DONE)
    assert chunk.raw is data
    assert ended(stream)
    feed(stream, REPORTED)
    assert stream.reply().tokens == Tokens(14, 7, cached=4)


# -- Bodies that end before the protocol does --------------------------------------------------------------------------


MESSAGE_READERS = pytest.mark.parametrize("request_", [message(), chat()], ids=["message", "chat"])


@MESSAGE_READERS
@pytest.mark.parametrize(
    "events",
    [
        [a_chunk(content="Hi"), a_chunk("stop")],
        [a_chunk("stop", content="Hi"), REPORTED],
        [a_chunk("length", content="Hi"), a_chunk(), {"choices": []}],
        [a_chunk(content="Hi"), REPORTED],
        [a_chunk("stop", content="Hi"), a_chunk("stop", 1, content="Ho")],
    ],
)
def test_chunks_whose_choices_have_all_ended_need_no_word_for_it(request_: Any, events: list[Any]) -> None:
    stream = reader(request_, "openai")
    feed(stream, *events)
    assert not ended(stream)
    chunk = stream.body_ended()
    assert ended(stream)
    told = [] if chunk is None else [event["type"] for event in events_of([chunk])]
    assert told == (["content_block_stop"] if request_.protocol == "anthropic" else [])


@MESSAGE_READERS
@pytest.mark.parametrize(
    "events",
    [
        [],
        [{"choices": []}],
        [REPORTED],
        [REPORTED, a_chunk(content="Hi")],
        [a_chunk(content="Hi")],
        [a_chunk("", content="Hi")],
        [{**a_chunk(content="Hi"), "usage": REPORTED["usage"]}],
        [a_chunk("stop", content="Hi"), a_chunk(role="assistant", index=1)],
        [a_chunk(content="Hi"), REPORTED, a_chunk(index=1, content="Ho")],
    ],
)
def test_chunks_that_say_less_were_cut(request_: Any, events: list[Any]) -> None:
    stream = reader(request_, "openai")
    feed(stream, *events)
    with pytest.raises(UpstreamFailed) as failed:
        stream.body_ended()
    assert failed.value.reached_upstream
    assert not ended(stream)


def test_of_more_choices_than_anybody_asks_for_no_end_is_believed() -> None:
    stream = reader(chat(), "openai")
    feed(stream, *[a_chunk("stop", index, content="Hi") for index in range(MOST_APART + 9)])
    written = stream.reply().written
    assert written is not None
    assert written.answers[-2:] == ["Hi", "Hi" * 9], "but all is counted"
    with pytest.raises(UpstreamFailed):
        stream.body_ended()


@MESSAGE_READERS
def test_a_message_that_said_why_it_ended_needs_no_stop(request_: Any) -> None:
    stream = reader(request_, "anthropic")
    feed(stream, START, *HELLO, message_end())
    assert stream.body_ended() is None
    assert ended(stream)
    assert (stream.reply().tokens, stream.reply().usage_source) == (Tokens(14, 7, cached=4), "reported")


@MESSAGE_READERS
@pytest.mark.parametrize(
    "events",
    [[], [PING], [START, *HELLO], [START, *HELLO, {**message_end(), "delta": {}}]],
)
def test_a_message_that_did_not_was_cut(request_: Any, events: list[Any]) -> None:
    stream = reader(request_, "anthropic")
    feed(stream, *events)
    with pytest.raises(UpstreamFailed):
        stream.body_ended()
    assert not ended(stream)
