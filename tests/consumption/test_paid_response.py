"""A paid call through Django: it is settled whether or not anybody waits for its answer."""

import asyncio
import contextlib

import pytest
from django.http import StreamingHttpResponse

from consumption import paid_response
from consumption.dialects.base import Answer
from consumption.paid_response import PaidResponse
from consumption.relay import CLIENT_GONE, Stream, Write


async def given(answer: Answer | Stream, *, once: asyncio.Event | None = None) -> Answer | Stream:
    if once is not None:
        await once.wait()
    return answer


async def all_ended() -> None:
    """Nothing waits for ever."""
    for _ in range(500):
        await asyncio.sleep(0.01)
        if len(asyncio.all_tasks()) == 1:
            return
    raise AssertionError(asyncio.all_tasks())


def endless(told: list[object]) -> Stream:
    """A stream that is pushed until it is cancelled, and tells why it was."""

    async def run(write: Write) -> None:
        try:
            while True:
                waiting = write(b"one ")
                assert waiting is not None
                await waiting
        except asyncio.CancelledError as cancelled:
            told.extend(cancelled.args)
            raise

    return Stream([], run)


async def test_a_stream_that_nobody_begins_to_pull_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django drops the answer of a client that goes before it is sent, and tells nobody."""
    monkeypatch.setattr(paid_response, "BEGIN_SECONDS", 0.01)
    told: list[object] = []
    await PaidResponse(given(endless(told))).response()
    await all_ended()
    assert told == [CLIENT_GONE]


@pytest.mark.parametrize("first", ["answer", "client"])
async def test_a_stream_whose_client_went_before_it_began_ends_at_once(first: str) -> None:
    told: list[object] = []
    may_answer = asyncio.Event()
    view = asyncio.create_task(PaidResponse(given(endless(told), once=may_answer)).response())
    await asyncio.sleep(0.01)
    if first == "answer":
        may_answer.set()
        await asyncio.sleep(0)  # the answer is there, and the view not told yet
    view.cancel()
    await asyncio.sleep(0.01)
    may_answer.set()
    await all_ended()
    assert view.cancelled()
    assert told == [CLIENT_GONE]


async def test_a_whole_call_goes_on_without_its_client() -> None:
    made: list[str] = []

    async def answering() -> Answer:
        await asyncio.sleep(0.05)
        made.append("settled")
        return Answer(200, [], b"")

    view = asyncio.create_task(PaidResponse(answering()).response())
    await asyncio.sleep(0)
    view.cancel()
    await all_ended()
    assert view.cancelled()
    assert made == ["settled"]


async def test_a_client_that_reads_no_more_goes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drained then is not cut off when its connection ends at last."""
    monkeypatch.setattr(paid_response, "WRITE_SECONDS", 0.01)
    gone, may_end, told = asyncio.Event(), asyncio.Event(), list[str]()

    async def run(write: Write) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (waiting := write(b"one ")) is not None:
                await waiting
        gone.set()
        await may_end.wait()
        told.append("drained")

    response = await PaidResponse(given(Stream([], run))).response()
    assert isinstance(response, StreamingHttpResponse)
    pieces = aiter(response)
    assert [await anext(pieces) for _ in range(2)] == [b"one "] * 2
    await asyncio.wait_for(gone.wait(), 5)
    await response._iterator.aclose()  # type: ignore[attr-defined]  # as the collector does
    may_end.set()
    await all_ended()
    assert told == ["drained"]
