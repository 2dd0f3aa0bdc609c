"""What a text counts, and the process that counts it."""

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from consumption import tokenizer as tokenizer_module
from consumption.counting import o200k, serve, split
from consumption.tokenizer import Tokenizer

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("text", "by_o200k", "by_split"),
    [
        ("", 0, 0),
        ("Hello world", 2, 2),
        ("1234567", 3, 7),
        ("if x:\n    return\n", 6, 7),
        ("日本語のテキスト", 6, 6),
        ("<|endoftext|>", 7, 7),
        ("🙂", 1, 1),
    ],
)
def test_a_text_counts_what_its_model_makes_of_it(text: str, by_o200k: int, by_split: int) -> None:
    assert (o200k([text]), split([text])) == (by_o200k, by_split)


def test_the_process_answers_every_question_in_turn_until_nobody_asks() -> None:
    asked = [msgspec.json.encode(each) for each in (("o200k", ["Hello", " world"]), ("split", ["12"]))]
    answers = io.BytesIO()
    serve(io.BytesIO(b"".join(len(each).to_bytes(4, "big") + each for each in asked)), answers)
    assert answers.getvalue() == b"2\n2\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def counter() -> AsyncIterator[Tokenizer]:
    """One for all tests, which are in one loop: starting its process is what takes time."""
    shared = Tokenizer()
    yield shared
    await shared.close()


@in_one_loop
async def test_callers_at_once_each_get_their_own_count_from_one_process(counter: Tokenizer) -> None:
    counts = await asyncio.gather(*(counter.count(["1" * length], "split") for length in range(1, 40)))
    assert counts == list(range(1, 40))
    assert await counter.count(["\ud800", ""], "o200k") == 1, "a lone surrogate harms nobody"
    assert await counter.count([], "o200k") == 0


@in_one_loop
async def test_the_counting_process_sees_nothing_of_the_gateways_environment(
    counter: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "planted")
    assert await counter.count(["x"], "o200k") == 1
    assert counter._process is not None
    environment = Path(f"/proc/{counter._process.pid}/environ")
    assert b"planted" not in await asyncio.to_thread(environment.read_bytes)


@in_one_loop
async def test_a_caller_that_goes_away_leaves_no_answer_for_the_next_one(counter: Tokenizer) -> None:
    going = asyncio.create_task(counter.count(["9" * 777], "split"))
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert await counter.count(["123"], "split") == 3


@in_one_loop
async def test_a_process_that_dies_is_started_anew(counter: Tokenizer) -> None:
    assert await counter.count(["x"], "o200k") == 1
    assert counter._process is not None
    os.kill(counter._process.pid, signal.SIGKILL)
    assert await counter.count(["x"], "o200k") is None
    assert await counter.count(["x"], "o200k") == 1


@in_one_loop
async def test_a_process_that_hangs_is_given_up_and_replaced(
    counter: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await counter.count(["x"], "o200k") == 1
    assert counter._process is not None
    os.kill(counter._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(tokenizer_module, "COUNT_SECONDS", 0.05)
    assert await counter.count(["x"], "o200k") is None
    monkeypatch.undo()
    assert await counter.count(["x"], "o200k") == 1


@in_one_loop
async def test_what_is_too_long_is_counted_in_proportion(
    counter: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_module, "MOST_COUNTED", 100)
    assert await counter.count(["1" * 90, "2" * 90, "3" * 20], "split") == 200


@in_one_loop
async def test_once_closed_it_counts_nothing_and_leaves_no_process(counter: Tokenizer) -> None:
    assert await counter.count(["x"], "o200k") == 1
    assert counter._process is not None
    pid = counter._process.pid
    await counter.close()
    assert await counter.count(["x"], "o200k") is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
