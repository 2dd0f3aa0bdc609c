"""What a call used whose upstream reports nothing."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from catalog.pricing import Tokens
from consumption import written as written_module
from consumption.estimates import estimate
from consumption.prompts import IMAGE_TOKENS, SMALL_IMAGE_TOKENS, Prompt, prompt_of_input, prompt_of_messages
from consumption.replies import Bounds, read_chunk, read_reply
from consumption.tokenizer import Tokenizer
from consumption.written import TOOL_CALL_TOKENS, Written

in_one_loop = pytest.mark.asyncio(loop_scope="module")

ROOM = Bounds(prompt=1_000_000, completion=1_000_000)
RECORDED = [
    json.loads(line) for line in (Path(__file__).parent / "real_usage.jsonl").read_text().splitlines()
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tokenizer() -> AsyncIterator[Tokenizer]:
    counter = Tokenizer()
    yield counter
    await counter.close()


def written(*chunks: dict[str, Any]) -> Written:
    all_of_it = Written()
    for chunk in chunks:
        for choice in read_chunk(json.dumps({"choices": [chunk]}).encode()).choices or ():
            choice.write(all_of_it)
    return all_of_it


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields}


def test_the_pieces_of_a_choice_are_one_text_however_they_are_mixed() -> None:
    got = written(
        delta(0, content="Hel"), delta(1, content="An"), delta(0, content="lo"), delta(1, content="na")
    )
    assert (got.answers, got.thoughts, got.other) == (["Hello", "Anna"], [], 0)


def test_completions_refusals_and_thoughts_are_written_too() -> None:
    got = written(
        {"index": 0, "text": "plain"},
        delta(1, refusal="I can't"),
        delta(2, reasoning_content="Let me "),
        delta(2, reasoning="think"),
        delta(2, content="Done"),
    )
    assert (got.answers, got.thoughts) == (["plain", "I can't", "Done"], ["Let me think"])


def test_tool_calls_are_written_with_their_names_and_arguments() -> None:
    got = written(
        delta(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "weather", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"city":'}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '"Oslo"}'}}]),
        delta(tool_calls=[{"index": 1, "id": "c2", "function": {"name": "time", "arguments": "{}"}}]),
    )
    assert got.answers == ['weather{"city":"Oslo"}time{}']
    assert got.other == 2 * TOOL_CALL_TOKENS


@pytest.mark.parametrize(
    "odd",
    [
        {"refusal": 5}, {"reasoning_content": ["x"]}, {"reasoning": {"a": 1}}, {"tool_calls": [{}]},
        {"tool_calls": [{"function": "x"}]}, {"tool_calls": [{"function": {"name": 1, "arguments": None}}]},
    ],
)  # fmt: skip
def test_what_is_of_no_known_shape_counts_nothing(odd: dict[str, Any]) -> None:
    got = written(delta(**odd))
    assert (got.answers, got.thoughts, got.other) == ([], [], 0)


def test_a_whole_answer_is_read_like_a_stream() -> None:
    body = {"choices": [{"message": {"content": "Hi", "reasoning_content": "hm"}}, {"text": "there"}]}
    got = read_reply(json.dumps(body).encode(), ROOM).written
    assert got is not None
    assert (got.answers, got.thoughts) == (["Hi", "there"], ["hm"])


def test_an_answer_without_end_takes_a_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written_module, "MOST_WRITTEN", 10)
    got = written(delta(content="12345678"), delta(content="9" * 42), delta(content="!" * 40))
    assert got.answers == ["1234567899"]
    assert got.other == 80 // 4


def test_a_prompt_is_its_texts_its_messages_and_a_price_for_what_is_no_text() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "name": "ann", "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image_url", "image_url": {"url": "https://x.example", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "A" * 10_000}},
            "odd",
        ]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
    ]  # fmt: skip
    prompt = prompt_of_messages(messages, [{"type": "function"}], None)
    assert prompt.texts == ["What is this?", "ann", '[{"id":"c"}]', '[{"type":"function"}]']
    assert (prompt.messages, prompt.other) == (2, 3 * IMAGE_TOKENS + SMALL_IMAGE_TOKENS)


@pytest.mark.parametrize(
    ("given", "texts", "ids"),
    [
        ("one", ["one"], 0), (["one", "two"], ["one", "two"], 0), ([1, 2, 3], [], 3), ([[1, 2], [3]], [], 3),
        (None, [], 0), ([None, {}, "x"], ["x"], 0),
    ],
)  # fmt: skip
def test_token_ids_are_counted_as_they_are(given: Any, texts: list[str], ids: int) -> None:
    assert prompt_of_input(given) == Prompt(texts, messages=0, other=ids)


@in_one_loop
async def test_an_estimate_adds_it_all_up_and_keeps_thoughts_apart(tokenizer: Tokenizer) -> None:
    prompt = Prompt(["Hello world"], messages=1, other=85)
    got = written(delta(content="Hello world"), delta(reasoning="Hello"))
    assert await estimate(tokenizer, "o200k", prompt, got, ROOM) == Tokens(2 + 4 + 3 + 85, 3, 0, 1)
    assert await estimate(tokenizer, "split", prompt, got, ROOM) == Tokens(2 + 5 + 4 + 85, 3, 0, 1)


@in_one_loop
async def test_an_estimate_never_exceeds_what_was_reserved(tokenizer: Tokenizer) -> None:
    got = written(delta(content="one two three four"), delta(reasoning="five six seven"))
    assert await estimate(tokenizer, "o200k", Prompt(["a b c d"]), got, Bounds(2, 2)) == Tokens(2, 2, 0, 2)


@in_one_loop
async def test_where_nothing_can_count_four_bytes_are_a_token() -> None:
    closed = Tokenizer()
    await closed.close()
    got = written(delta(content="x" * 41))
    assert await estimate(closed, "split", Prompt(["ä" * 4]), got, ROOM) == Tokens(2, 11, 0, 0)


@in_one_loop
async def test_a_cancel_while_counting_comes_after_there_is_something_to_settle(tokenizer: Tokenizer) -> None:
    settled: list[Tokens] = []

    async def call() -> None:
        settled.append(
            await estimate(tokenizer, "split", Prompt(["x" * 8]), written(delta(content="y" * 8)), ROOM)
        )
        await asyncio.sleep(30)

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert settled == [Tokens(2, 2, 0, 0)]
    assert calling.cancelling() == 1


@in_one_loop
async def test_what_a_real_model_counted_is_met_within_five_per_cent(tokenizer: Tokenizer) -> None:
    """Recorded from Gemma 3 (``bench/token_counts.py``), whose vocabulary is not here. Some chats have no answer."""
    true: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    for call in RECORDED:
        chat = "messages" in call
        prompt = prompt_of_messages(call["messages"]) if chat else prompt_of_input(call["prompt"])
        got = written(delta(content=call.get("answer", "")))
        tokens = await estimate(tokenizer, "split", prompt, got, ROOM)
        kind = "chats" if chat else "texts"
        true.update(
            {
                f"prompts of {kind}": call["prompt_tokens"],
                f"answers to {kind}": call.get("completion_tokens", 0),
            }
        )
        counted.update({f"prompts of {kind}": tokens.prompt, f"answers to {kind}": tokens.completion})
    assert len(RECORDED) == 180
    assert counted.total() == pytest.approx(true.total(), rel=0.05)
    for name in ("prompts of chats", "prompts of texts", "answers to texts"):
        assert counted[name] == pytest.approx(true[name], rel=0.05), name
    # A base model that is asked like an assistant strays between languages: 48 tokens of that are a hard case.
    assert counted["answers to chats"] == pytest.approx(true["answers to chats"], rel=0.08)
