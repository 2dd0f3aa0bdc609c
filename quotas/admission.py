"""Admission and settlement: what a gateway asks of the scripts in ``quotas/scripts``.

Every method is one call to Valkey. The protocol, and why it counts once whatever dies, is told in
``docs/settlement.md``.
"""

import asyncio
import logging
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import hiredis
import msgspec

from common import clock
from common.errors import Unavailable
from common.ids import milliseconds_of, text
from metering import journal, shards
from quotas import clocks, commands, shard_states
from quotas.errors import Away
from quotas.given_back import requests_back
from quotas.leases import LEASE_MS, of_tokens, signer_of
from quotas.limits import LimitSet, limit_set
from quotas.line import Line, LineError, Lines, NotSent, OutcomeUnknown
from quotas.names import Periods, names_of
from quotas.refusals import RETRY_SECONDS, Rate, refusal_of
from quotas.shard_states import State

log = logging.getLogger(__name__)

#: How long a call waits for Valkey: longer than this and the caller is better served by the spool, or by a 503.
ANSWER_SECONDS = 0.1
#: What ``admit.lua`` answers where a call is let in.
_LET_IN = struct.Struct(">4d")


class NotLive(NotSent):
    """Valkey may be there, but its counters are not to be believed."""


class StaleEpoch(Exception):
    """The shard's counters belong to another epoch than the caller thought."""


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What a call wants let in.

    ``id``: the request's, as text. ``prompt_bound``: tokens the prompt can cost at most. ``output_cap``: tokens of
    one choice at most; where the caller did not name it (``cap_named`` false) it is lowered to what remains.
    ``unsettled``: the journal entry for the case that nobody settles. ``ready``: the call's commands, where they are
    kept.
    """

    id: str
    request_id: uuid.UUID
    consumer_id: uuid.UUID
    service_id: uuid.UUID
    limits: LimitSet
    prompt_bound: int
    output_cap: int
    choices: int
    cap_named: bool
    unsettled: bytes
    ready: commands.Ready | None = None


class Lease(msgspec.Struct, frozen=True, gc=False):
    """What was let in, under which limits. ``output_cap``: what one choice may cost now. ``rate``: None where requests
    are unlimited."""

    request_id: uuid.UUID
    consumer_id: uuid.UUID
    service_id: uuid.UUID
    shard: int
    limits: LimitSet
    prompt_bound: int
    output_cap: int
    rate: Rate | None


class Admission:
    """The limits of all shards, reached over one ``Line``, or one to every master of a cluster."""

    def __init__(self, line: Lines, *, gateway: str, journal_bound: int) -> None:
        self._line = line
        self._lines = line.by_shard
        self.gateway = gateway
        self._signature = commands.Signature(gateway, journal_bound)
        self._epochs: list[str | None] = [None] * shards.SHARDS
        self._complained_at = 0.0
        self._periods = Periods()

    # -- the connection ------------------------------------------------------------------------------------------

    async def on_connect(self, line: Line) -> None:
        """Load the scripts, learn who the server is, and which of its shards are to be believed."""
        for script in commands.SCRIPTS:
            await line.setup_call(("SCRIPT", "LOAD", script.text))
        info = await line.setup_call(("INFO", "server"))
        line.life = _field(info, b"run_id:")
        line.clock_offset_ms = await clocks.offset_ms(line)
        await self._look(line, range(shards.SHARDS))

    def moved(self, shard: int) -> None:
        """Another master has the shard now: nothing is sent there until its epoch is that master's."""
        self._epochs[shard] = None

    async def refresh_epochs(self) -> bool:
        """Read all epochs; True when every shard is live. Raises as ``Line.call`` does where no line answers."""
        await self.look()
        return self.is_live

    async def look(self, of: Iterable[int] = range(shards.SHARDS)) -> list[State]:
        """How shards stand, of those whose server answers. Raises as ``Line.call`` does where none does."""
        asked = set(of)
        looks = [self._look(line, asked) for line in set(self._lines) if line.is_open]
        if not looks:
            raise NotSent("no connection to Valkey")
        found = await asyncio.gather(*looks, return_exceptions=True)
        answered = [states for states in found if not isinstance(states, BaseException)]
        if not answered:
            raise next(failed for failed in found if isinstance(failed, BaseException))
        return [state for states in answered for state in states]

    async def _look(self, line: Line, of: Iterable[int]) -> list[State]:
        """A shard of another server's epoch is sent nothing, nor one that the server says is not its own."""
        states = await shard_states.read(line, [shard for shard in of if self._lines[shard] is line])
        states = [state for state in states if self._lines[state.shard] is line]
        for state in states:
            self._epochs[state.shard] = None if state.is_opening else state.epoch or None
        return states

    @property
    def is_live(self) -> bool:
        """Whether every shard's counters are to be believed."""
        return self._line.is_open and None not in self._epochs

    @property
    def is_partly_live(self) -> bool:
        """Whether any shard is: on a cluster the consumers of the others are served all the same."""
        lives = zip(self._lines, self._epochs, strict=True)
        return any(epoch is not None and line.is_open for line, epoch in lives)

    def epoch(self, shard: int) -> str:
        """The epoch of a shard. Raises ``NotLive`` while there is none to believe."""
        epoch = self._epochs[shard]
        if epoch is None:
            raise NotLive("the shard is being rebuilt")
        return epoch

    def _same_epoch(self, shard: int, tried: str) -> str:
        """The epoch of a shard, if it is still the one in which something was tried. The server's word alone is not
        enough: one that was set back, or a replica that was promoted, knows the old epoch by heart.

        Raises ``NotLive`` or ``StaleEpoch``.
        """
        epoch = self.epoch(shard)
        if epoch != tried:
            raise StaleEpoch
        return epoch

    def known_epoch(self, shard: int) -> str:
        """The epoch of a shard, or empty while there is none to believe."""
        return self._epochs[shard] or ""

    def reaches(self, shard: int) -> bool:
        """Whether a shard's counters can be asked for, and believed."""
        return self._lines[shard].is_open and self._epochs[shard] is not None

    # -- one call's life -----------------------------------------------------------------------------------------

    async def admit(self, ask: Ask) -> Lease:
        """Let a call in, or raise a refusal of ``quotas.errors`` or ``Unavailable``; a refusal consumes nothing."""
        ready = ask.ready or commands.Ready(names_of(ask.consumer_id, ask.service_id), ask.limits)
        shard = ready.names.shard
        give_back = partial(self._give_back, ask, shard)
        try:
            line = self._lines[shard]
            command = self._admit_command(ask, ready, line.clock_offset_ms)
            answer = await _unless_cancelled(
                line.call(command, timeout=ANSWER_SECONDS, on_late=give_back), give_back
            )
        except (LineError, hiredis.ReplyError) as error:
            self._complain(error)
            is_away = isinstance(error, LineError) and not isinstance(error, NotLive)
            raise (Away if is_away else Unavailable)(retry_after=RETRY_SECONDS) from error
        return self._lease_of(ask, shard, answer)

    def _admit_command(self, ask: Ask, ready: commands.Ready, clock_offset_ms: int) -> bytes:
        at_ms = milliseconds_of(ask.request_id)
        return ready.admit(
            self._signature,
            self.epoch(ready.names.shard),
            self._periods.of(at_ms),
            id_=ask.id,
            at_ms=at_ms,
            deadline_ms=clock.now_ms() + clock_offset_ms + int(ANSWER_SECONDS * 1000),
            need=(ask.prompt_bound, ask.output_cap, ask.choices, ask.cap_named),
            entry=ask.unsettled,
        )

    def _complain(self, error: Exception) -> None:
        """Once a second: an outage refuses thousands of calls, and one line says it."""
        now = time.monotonic()
        if now - self._complained_at > 1.0:
            self._complained_at = now
            log.warning("admission impossible: %s", type(error).__name__)

    def _lease_of(self, ask: Ask, shard: int, answer: bytes | list[Any]) -> Lease:
        if isinstance(answer, bytes):
            cap, left, full_in, size = map(int, _LET_IN.unpack(answer))
            rate = None if size < 0 else Rate(size, left, full_in)
            return Lease(
                ask.request_id,
                ask.consumer_id,
                ask.service_id,
                shard,
                ask.limits,
                ask.prompt_bound,
                cap,
                rate,
            )
        if answer[0] == b"stale":
            self._epochs[shard] = None
        raise refusal_of(answer, ask.limits, at_ms=milliseconds_of(ask.request_id))

    def _give_back(self, ask: Ask, shard: int, late: Any) -> None:
        """An answer nobody waited for: if it let the call in, end the lease, or it would be reaped as unsettled."""
        if isinstance(late, bytes):
            asyncio.get_running_loop().create_task(self.release(self._lease_of(ask, shard, late)))

    async def release(self, lease: Lease) -> None:
        """End a lease of a call that never left for the upstream. What fails here, the reaper ends."""
        names = names_of(lease.consumer_id, lease.service_id)
        elapsed_ms = clock.now_ms() - milliseconds_of(lease.request_id)
        requests = requests_back(lease.limits, lease.rate, elapsed_ms=elapsed_ms) if lease.rate else (0,)
        try:
            await self._lines[names.shard].call((
                "EVALSHA", commands.RELEASE.sha, 4, names.epoch, names.leases, names.bucket, names.now,
                self.epoch(names.shard), str(lease.request_id), *requests,
            ))  # fmt: skip
        except (LineError, hiredis.ReplyError) as error:
            log.warning("lease not released: %s", type(error).__name__)

    async def settle(
        self, entry: journal.Entry, encoded: bytes, *, epoch: str = "", ready: commands.Ready | None = None
    ) -> str:
        """Reserved becomes used and the entry is journalled, once; returns its stream id.

        ``epoch``: the one in which it was first tried, where this is a repetition. ``ready``: as it was admitted with.
        Raises ``NotSent``, ``OutcomeUnknown`` (repeat the same call) or ``StaleEpoch`` (``append`` it).
        """
        ready = ready or _ready_for(entry)
        shard = ready.names.shard
        command = ready.settle(
            self._signature,
            self._same_epoch(shard, epoch) if epoch else self.epoch(shard),
            self._periods.of(milliseconds_of(entry.request_id)),
            id_=text(entry.request_id),
            tokens=entry.total_tokens,
            nano=entry.cost_nano,
            entry=encoded,
        )
        answer = await self._lines[shard].call(command, timeout=ANSWER_SECONDS)
        if not isinstance(answer, bytes):
            self._epochs[shard] = None
            raise StaleEpoch
        return answer.decode()

    async def append(self, shard: int, encoded: bytes) -> tuple[str, str]:
        """Journal an entry without touching a counter: the drain credits it. For settles of unknown fate.

        Returns the epoch that it came into, empty where there was none, and its stream id.
        """
        keys = shards.journal_key(shard), shards.epoch_key(shard), shards.opening_key(shard)
        answer = await self._line.call(("EVALSHA", commands.APPEND.sha, 3, *keys, encoded), timeout=1.0)
        _, stream_id, live, opening = answer
        return shard_states.epoch_of(self._lines[shard].life, live, opening), stream_id.decode()

    async def lend(self, entry: journal.Entry, *, share: str, epoch: str) -> None:
        """Give a call that was let in by this gateway alone a lease of its own, out of a share where there is one.

        Then it is settled like any other, in the same epoch. Raises as ``settle`` does.
        """
        names = names_of(entry.consumer_id, entry.service_id)
        period = self._periods.of(milliseconds_of(entry.request_id))
        id_ = str(entry.request_id)
        quota = names.quota + period.month
        holds = of_tokens(self.gateway, quota)
        await self.run(
            names.shard,
            commands.LEND,
            (names.epoch, names.leases, quota, names.tombstone + id_),
            (
                self._same_epoch(names.shard, epoch),
                id_,
                entry.total_tokens,
                LEASE_MS,
                holds,
                period.month_expires,
                share,
            ),
        )

    async def run(
        self, shard: int, script: commands.Script, keys: Sequence[str], arguments: Sequence[str | bytes | int]
    ) -> list[Any]:
        """Run a script that wants an epoch; returns what is behind its ``ok``. Raises as ``settle`` does."""
        command = ("EVALSHA", script.sha, len(keys), *keys, *arguments)
        answer = await self._lines[shard].call(command, timeout=1.0)
        if answer[0] != b"ok":
            raise StaleEpoch
        return list(answer[1:])

    # -- leases --------------------------------------------------------------------------------------------------

    async def hand_in(
        self, shard: int, epoch: str, running: Iterable[tuple[Ask, Lease]] = (), *, all_done: bool
    ) -> None:
        """Give running calls their leases again, in a shard that is being opened under ``epoch``; where ``all_done``,
        say that this gateway has handed in all it had. Raises as ``settle`` does."""
        leases: list[str | bytes] = []
        for ask, lease in running:
            period = self._periods.of(milliseconds_of(ask.request_id))
            need = ask.prompt_bound, lease.output_cap, ask.choices
            names = names_of(ask.consumer_id, ask.service_id)
            leases += (
                ask.id,
                commands.lease(self._signature, names, ask.limits, period, need=need, entry=ask.unsettled),
            )
        name = self.gateway.rpartition(":")[0] if all_done else ""
        await self.run(
            shard,
            commands.HAND_IN,
            (shards.opening_key(shard), shards.leases_key(shard), shards.handed_in_key(shard)),
            (epoch.partition(":")[0], name, LEASE_MS, *leases),
        )

    async def renew(self, shard: int, request_ids: list[uuid.UUID]) -> list[uuid.UUID]:
        """Move the deadlines of open leases; returns those that are gone. Raises as ``settle`` does."""
        answer = await self._lines[shard].call(
            (
                "EVALSHA", commands.RENEW.sha, 2, shards.epoch_key(shard), shards.leases_key(shard),
                self.epoch(shard), LEASE_MS, *map(str, request_ids),
            ),
            timeout=1.0,
        )  # fmt: skip
        if answer[0] != b"ok":
            raise StaleEpoch
        return [uuid.UUID(id_.decode()) for id_ in answer[1:]]

    async def open_leases(self, shard: int) -> dict[str, str]:
        """The gateway that signed each, by the request's id. Raises as ``Line.call`` does."""
        found = await self._line.call(("HGETALL", shards.leases_key(shard)), timeout=1.0)
        return {id_.decode(): signer_of(lease) for id_, lease in found.items()}

    async def close_leases(self, shard: int, ids: list[str]) -> int:
        """End calls that nobody settles any more, as the reaper does; returns how many were open."""
        keys = (
            shards.epoch_key(shard), shards.leases_key(shard), shards.journal_key(shard),
            shards.former_leases_key(shard),
        )  # fmt: skip
        try:
            closed, _ = await self.run(shard, commands.REAP, keys, (self.epoch(shard), 0, 0, 0, *ids))
        except StaleEpoch:  # whoever opens the shard looks at its leases anew
            return 0
        return int(closed)


def _ready_for(entry: journal.Entry) -> commands.Ready:
    names = names_of(entry.consumer_id, entry.service_id)
    return commands.Ready(names, limit_set(None, None), commands.Counted(entry.counted_key, entry.currency))


async def _unless_cancelled(waiting: asyncio.Future[Any], on_late: Callable[[Any], None]) -> Any:
    """The answer; one that came in the very tick in which its caller was cancelled is handed to ``on_late``."""
    try:
        return await waiting
    except asyncio.CancelledError:
        if not waiting.cancelled():
            on_late(waiting.result())
        raise


def _field(info: bytes, name: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(name):
            return line[len(name) :].decode().strip()
    return ""


__all__ = ["Admission", "Ask", "Lease", "NotSent", "OutcomeUnknown", "StaleEpoch"]
