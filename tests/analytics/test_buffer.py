"""The gateway's buffer: bounded, counted, patient with a stream that is away."""

import asyncio
import logging

import pytest

from analytics import events
from analytics.buffer import EventBuffer

pytestmark = pytest.mark.asyncio


class Stream:
    """Takes batches, or is away."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.away = False
        self.attempts = 0

    async def send(self, batch: list[bytes]) -> None:
        self.attempts += 1
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError
        self.batches.append([events.decode(data).id for data in batch])

    @property
    def ids(self) -> list[str]:
        return [id_ for batch in self.batches for id_ in batch]


def offer(buffer: EventBuffer, *numbers: int) -> None:
    for number in numbers:
        buffer.offer("rate_limit_exceeded", str(number), "service", {"number": number})


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what is waited for sets no event
            await asyncio.sleep(0.005)


async def test_a_full_buffer_drops_and_counts_and_keeps_what_it_has() -> None:
    buffer, stream = EventBuffer(capacity=3), Stream()
    offer(buffer, 1, 2, 3, 4, 5)
    assert (len(buffer), buffer.dropped) == (3, 2)
    await buffer.flush(stream.send)
    assert stream.ids == ["1", "2", "3"]
    assert (len(buffer), buffer.dropped) == (0, 2)
    offer(buffer, 6)
    assert (len(buffer), buffer.dropped) == (1, 2)


async def test_it_holds_ten_thousand() -> None:
    buffer = EventBuffer()
    offer(buffer, *range(10_001))
    assert (len(buffer), buffer.dropped) == (10_000, 1)


async def test_batches_have_at_most_a_hundred_events_in_order() -> None:
    buffer, stream = EventBuffer(), Stream()
    offer(buffer, *range(250))
    await buffer.flush(stream.send)
    assert [len(batch) for batch in stream.batches] == [100, 100, 50]
    assert stream.ids == [str(number) for number in range(250)]


async def test_a_full_batch_leaves_at_once_and_a_small_one_after_the_interval() -> None:
    buffer, stream = EventBuffer(), Stream()
    running = asyncio.create_task(buffer.run(stream.send, interval=60))
    await asyncio.sleep(0)
    offer(buffer, *range(100))
    await until(lambda: stream.ids)
    offer(buffer, 100)
    await asyncio.sleep(0.05)
    assert len(stream.ids) == 100
    running.cancel()
    running = asyncio.create_task(buffer.run(stream.send, interval=0.05))
    await until(lambda: len(stream.ids) == 101)
    running.cancel()


async def test_what_could_not_be_sent_stays_and_is_sent_later(caplog: pytest.LogCaptureFixture) -> None:
    buffer, stream = EventBuffer(), Stream()
    stream.away = True
    offer(buffer, *range(120))
    running = asyncio.create_task(buffer.run(stream.send, interval=0.01))
    await until(lambda: stream.attempts >= 3)
    assert (len(buffer), stream.ids) == (120, [])
    stream.away = False
    await until(lambda: len(buffer) == 0)
    assert stream.ids == [str(number) for number in range(120)]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]  # told once, not at every try
    running.cancel()


async def test_a_flush_after_the_loop_was_cancelled_loses_nothing() -> None:
    buffer, stream = EventBuffer(), Stream()
    running = asyncio.create_task(buffer.run(stream.send, interval=60))
    await asyncio.sleep(0)
    offer(buffer, 1, 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await buffer.flush(stream.send)
    assert stream.ids == ["1", "2"]


async def test_an_event_is_a_cloudevent() -> None:
    buffer = EventBuffer()
    batches: list[list[bytes]] = []

    async def send(batch: list[bytes]) -> None:
        batches.append(batch)

    buffer.offer("quota_exceeded", "the-request", "the-service", {"tier": "basic"})
    await buffer.flush(send)
    event = events.decode(batches[0][0])
    assert (event.specversion, event.datacontenttype) == ("1.0", "application/json")
    assert (event.source, event.type) == ("/marketplace/consumption", "quota_exceeded")
    assert (event.id, event.subject, event.data) == ("the-request", "the-service", {"tier": "basic"})
    assert event.time.tzinfo is not None
