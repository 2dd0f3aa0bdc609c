"""A stream through Django: it is settled whether or not anybody pulls."""

import asyncio

import pytest

from consumption import views
from consumption.relay import CLIENT_GONE, Stream, Write


async def test_a_stream_that_nobody_begins_to_pull_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django drops the answer of a client that goes before it is sent, and tells nobody."""
    monkeypatch.setattr(views, "BEGIN_SECONDS", 0.01)
    told: list[object] = []

    async def run(write: Write) -> None:
        try:
            while True:
                waiting = write(b"one ")
                assert waiting is not None
                await waiting
        except asyncio.CancelledError as cancelled:
            told.extend(cancelled.args)
            raise

    views._streaming(Stream([], run))
    for _ in range(500):
        await asyncio.sleep(0.01)
        if len(asyncio.all_tasks()) == 1:  # nothing waits for ever to say so
            break
    assert len(asyncio.all_tasks()) == 1
    assert told == [CLIENT_GONE]
