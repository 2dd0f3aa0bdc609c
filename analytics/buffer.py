"""Events that a gateway has still to hand over. Full means dropped and counted: no call waits for them."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

from analytics import events

logger = logging.getLogger(__name__)

CAPACITY = 10_000
Send = Callable[[list[bytes]], Awaitable[object]]


class EventBuffer:
    """Bounded, in process. Use it from the event loop's thread. ``len()`` says how many wait.

    ``dropped`` counts events that found it full, since the process started.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.dropped = 0
        self._capacity = capacity
        self._waiting: deque[bytes] = deque()
        self._batch_is_full = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, type: events.Type, id: str, subject: str, data: dict[str, Any]) -> None:
        """Take an event, or drop and count it. Never blocks. What the parts mean: ``analytics.events``."""
        if len(self._waiting) >= self._capacity:
            self.dropped += 1
            return
        self._waiting.append(events.encode(events.Event(id=id, type=type, subject=subject, data=data)))
        if len(self._waiting) >= events.BATCH:
            self._batch_is_full.set()

    async def run(self, send: Send, interval: float = 1.0) -> None:
        """Hand over batches of at most 100 events, a smaller one after ``interval`` seconds. For ever.

        ``send`` gets encoded events and raises when they did not arrive, or may not have: they are sent
        again, which their ids make harmless. Give it a deadline. When shutting down cancel this, await it, and
        then call ``flush``.
        """
        failing = False
        while True:
            await self._wait(interval)
            try:
                await self.flush(send)
                failing = False
            except Exception:  # whatever it was, giving up would drop every event from here on
                if not failing:
                    logger.exception("events cannot be handed over; trying every %s s", interval)
                failing = True
                await asyncio.sleep(interval)

    async def flush(self, send: Send) -> None:
        """Hand over what waits now. Raises what ``send`` raises; what was not sent stays."""
        left = len(self._waiting)
        while left > 0:
            batch = list(islice(self._waiting, min(left, events.BATCH)))
            await send(batch)
            for _ in batch:
                self._waiting.popleft()
            left -= len(batch)

    async def _wait(self, interval: float) -> None:
        """Until a batch is full, at most for ``interval`` seconds."""
        self._batch_is_full.clear()
        if len(self._waiting) >= events.BATCH:
            return
        try:
            await asyncio.wait_for(self._batch_is_full.wait(), interval)
        except TimeoutError:
            return
