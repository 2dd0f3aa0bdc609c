"""What a gateway does where Valkey may have lost usage: it hands in what it retained, and the leases of its calls.

A shard is opened under a new epoch whenever its server is another one than before, or was emptied. Before its counters
are set, gateways hand in whatever they settled in another epoch and PostgreSQL may not have, what waits in their spool,
and their running calls; then they say so, and the drain (``metering.hand_ins``) goes on. Who comes too late appends,
and the drain credits.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

import hiredis

from consumption.settlement import Settlement
from consumption.spool import Spool
from metering import shards
from quotas.admission import Admission, Ask, Lease, StaleEpoch
from quotas.line import LineError
from quotas.shard_states import State

log = logging.getLogger(__name__)

#: How often watermarks are read, seconds, of shards of which something is retained.
PAUSE_SECONDS = 0.25
#: How often all shards are looked at.
LOOK_SECONDS = 1.0
#: The same while one of them is not live, and for a while after: shards are opened a few at a time.
OPENING_SECONDS = 0.05
WARY_SECONDS = 2.0
#: How often calls that are being settled are looked at, until each is in the journal or in the spool.
SETTLING_SECONDS = 0.005
#: How long a gateway that stops waits for the drain to pass what it settled.
STOP_SECONDS = 2.0

ALL = range(shards.SHARDS)


class HandIn:
    """One gateway's part in the opening of shards; and it lets go of what PostgreSQL has."""

    def __init__(self, admission: Admission, settlement: Settlement, spool: Spool) -> None:
        self._admission = admission
        self._settlement = settlement
        self._spool = spool
        self._retained = spool.retained
        #: The epoch for which each shard was handed in last.
        self._done: dict[int, str] = {}
        self._all_seen_at = self._wary_until = 0.0

    async def keep_looking(self) -> None:
        """``look`` until cancelled: at all shards now and then, and while any is not live."""
        while True:
            await asyncio.sleep(OPENING_SECONDS if self._is_wary else PAUSE_SECONDS)
            try:
                await self.look(self._due())
                await self._retained.bound()
            except OSError as error:
                log.critical("retained calls cannot be read: %s", error.strerror)

    @property
    def _is_wary(self) -> bool:
        return not self._admission.is_live or time.monotonic() < self._wary_until

    def _due(self) -> Collection[int]:
        now = time.monotonic()
        if not self._is_wary and now - self._all_seen_at < LOOK_SECONDS:
            return self._retained.shards
        self._all_seen_at = now
        return ALL

    async def look(self, of: Collection[int] = ALL) -> None:
        """Let go of what PostgreSQL has, and hand in where that is wanted. Harmless to repeat."""
        if not of:
            return
        try:
            states = await self._admission.look(of)
        except (LineError, hiredis.ReplyError):
            return
        for state in states:
            self._retained.passed(state.shard, state.watermark)
        opening = {state.shard: state.epoch for state in states if self._is_awaited(state)}
        if opening:
            await self._hand_in(opening)
        live = {state.shard: state.epoch for state in states if state.epoch and not state.is_opening}
        late = self._retained.elsewhere(live)
        if late:
            await self._retained.hand_in(late, self._admission.append)

    def _is_awaited(self, state: State) -> bool:
        return state.is_opening and self._done.get(state.shard) != state.epoch

    async def _hand_in(self, opening: Mapping[int, str]) -> None:
        self._wary_until = time.monotonic() + WARY_SECONDS
        running = self._settlement.running()
        by_shard: dict[int, list[tuple[Ask, Lease]]] = defaultdict(list)
        for ask, lease in running.values():
            by_shard[lease.shard].append((ask, lease))
        failed = await _each(
            by_shard.keys() & opening.keys(),
            lambda shard: self._admission.hand_in(shard, opening[shard], by_shard[shard], all_done=False),
        )
        # Whoever ends from here on is settled with its lease, once the shard is live.
        settling = self._settlement.settling(opening)
        # An event would cost every call.
        while settling := {id_ for id_ in settling if self._settlement.is_open(id_)}:  # noqa: ASYNC110 - see above
            await asyncio.sleep(SETTLING_SECONDS)
        failed |= await self._spool.append_all(self._admission, opening, but=running)
        failed |= await self._retained.hand_in(opening, self._admission.append)
        done = opening.keys() - failed
        failed |= await _each(
            done, lambda shard: self._admission.hand_in(shard, opening[shard], all_done=True)
        )
        self._done |= {shard: opening[shard] for shard in done - failed}

    async def stop(self) -> None:
        """Before this gateway ends, and after ``keep_looking`` has: wait a moment for the drain to pass all that was
        settled here, and leave what it did not to the slot's next owner."""
        until = time.monotonic() + STOP_SECONDS
        while len(self._retained) and self._admission.is_live and time.monotonic() < until:
            await self.look(self._retained.shards)
            await asyncio.sleep(OPENING_SECONDS)
        await self._retained.write_all()


async def _each(of: Iterable[int], work: Callable[[int], Awaitable[None]]) -> set[int]:
    """Returns the shards whose server did not answer, or has them in another epoch."""
    asked = list(of)
    answers = await asyncio.gather(*map(work, asked), return_exceptions=True)
    failed = set()
    for shard, answer in zip(asked, answers, strict=True):
        if isinstance(answer, LineError | hiredis.ReplyError | StaleEpoch):
            failed.add(shard)
        elif isinstance(answer, BaseException):
            raise answer
    if failed:
        log.warning("%d shards are handed in again", len(failed))
    return failed
