"""The states of keys that a gateway holds, and for how long it may believe them.

While the channel of changes is heard from, a state that is held is right: every change drops it. After a second of
silence, or a reconnect, nothing that is held is believed until PostgreSQL was asked again. Where it cannot be asked
either, what was known to be right is believed for 30 s more, and then nothing.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

from django.db import DatabaseError

from common.errors import Unavailable
from keys.grants import StoredKey

Read = Callable[[str], Awaitable[StoredKey | None]]

#: Seconds of silence after which the channel is not trusted. Also how long a state counts as just read without it.
SILENCE_SECONDS = 1.0
#: How long a state is believed that nobody can confirm.
UNCONFIRMED_SECONDS = 30.0
#: How long PostgreSQL may take, and for how long it is then not asked again.
READ_SECONDS = 1.0
#: States held at most.
MOST_STATES = 200_000


class KeyStates:
    """The states of one gateway. Use from one event loop only."""

    def __init__(self, read: Read) -> None:
        self._read = read
        #: Right, as the channel would tell otherwise.
        self.held: dict[str, StoredKey] = {}
        #: What was right at a moment (monotonic seconds) and may have changed since.
        self._unconfirmed: dict[str, tuple[StoredKey, float]] = {}
        self._by_consumer: dict[uuid.UUID, set[str]] = {}
        self._reading: dict[str, asyncio.Task[StoredKey | None]] = {}
        self._generation = 0
        self._heard_at = 0.0
        self._silence: asyncio.TimerHandle | None = None
        self._cut_until = 0.0

    # -- the channel ---------------------------------------------------------------------------------------------

    def heard(self, at: float) -> None:
        """Every change made before a moment (monotonic seconds) has been told."""
        self._heard_at = at
        if self._silence is not None:
            self._silence.cancel()
        loop = asyncio.get_running_loop()
        self._silence = loop.call_later(max(0.0, at + SILENCE_SECONDS - time.monotonic()), self._fall_silent)

    def _fall_silent(self) -> None:
        self._silence = None
        self.doubt_all()

    def doubt_all(self) -> None:
        """Changes may have been missed: read every state again before it is used."""
        self._generation += 1
        oldest = time.monotonic() - UNCONFIRMED_SECONDS
        doubted = {id_: held for id_, held in self._unconfirmed.items() if held[1] > oldest}
        doubted.update((id_, (stored, self._heard_at)) for id_, stored in self.held.items())
        self.held.clear()
        self._unconfirmed = doubted
        self._reading.clear()

    def forget(self, public_id: str) -> None:
        """A key changed: what is held of it is wrong."""
        self._generation += 1
        self._reading.pop(public_id, None)
        self._drop(public_id)

    def _drop(self, public_id: str) -> None:
        known = self.held.pop(public_id, None) or self._unconfirmed.get(public_id, (None,))[0]
        self._unconfirmed.pop(public_id, None)
        if known is not None and (siblings := self._by_consumer.get(known.grant.consumer_id)) is not None:
            siblings.discard(public_id)
            if not siblings:
                del self._by_consumer[known.grant.consumer_id]

    def forget_consumer(self, consumer_id: uuid.UUID) -> None:
        """A consumer or its entitlements changed: what is held of its keys is wrong."""
        self._generation += 1
        for public_id in list(self._by_consumer.get(consumer_id, ())):
            self.forget(public_id)

    # -- states --------------------------------------------------------------------------------------------------

    async def get(self, public_id: str) -> StoredKey | None:
        """The state of a key, None where there is no such key. Raises ``Unavailable``."""
        stored = self.held.get(public_id)
        if stored is not None:
            return stored
        if self._silence is None and (stored := self._believed(public_id, SILENCE_SECONDS)):
            return stored
        reading = self._reading.get(public_id)
        if reading is None:
            if time.monotonic() < self._cut_until:
                return self._unconfirmed_or_unavailable(public_id)
            reading = asyncio.get_running_loop().create_task(self._ask(public_id))
            self._reading[public_id] = reading
        return await asyncio.shield(reading)

    async def _ask(self, public_id: str) -> StoredKey | None:
        if self._cut_until:
            self._cut_until = time.monotonic() + READ_SECONDS  # one tries, the others need not wait for it
        try:
            while True:
                generation, asked_at = self._generation, time.monotonic()
                stored = await asyncio.wait_for(self._read(public_id), READ_SECONDS)
                if generation == self._generation:
                    break  # nothing changed while it was read
        except (DatabaseError, TimeoutError):
            self._cut_until = time.monotonic() + READ_SECONDS
            return self._unconfirmed_or_unavailable(public_id)
        finally:
            if self._reading.get(public_id) is asyncio.current_task():
                del self._reading[public_id]
        self._cut_until = 0.0
        self._hold(public_id, stored, asked_at)
        return stored

    def _hold(self, public_id: str, stored: StoredKey | None, asked_at: float) -> None:
        self._unconfirmed.pop(public_id, None)
        if stored is None:
            return
        self._by_consumer.setdefault(stored.grant.consumer_id, set()).add(public_id)
        if self._silence is None:
            self._unconfirmed[public_id] = (stored, asked_at)
            return
        self.held[public_id] = stored
        if len(self.held) > MOST_STATES:
            self._drop(next(iter(self.held)))

    def _believed(self, public_id: str, seconds: float) -> StoredKey | None:
        stored, right_at = self._unconfirmed.get(public_id, (None, 0.0))
        return stored if time.monotonic() - right_at < seconds else None

    def _unconfirmed_or_unavailable(self, public_id: str) -> StoredKey:
        stored = self._believed(public_id, UNCONFIRMED_SECONDS)
        if stored is None:
            raise Unavailable(retry_after=1)
        return stored
