"""``Idempotency-Key``: however often a call is repeated under one key, it goes upstream once and is charged once.

What decides is the claim in PostgreSQL (``consumption.claims``); the answer for duplicates is in Valkey
(``consumption.kept_answers``) and may be lost. A key is scoped to its consumer and stands for its call for 24 hours.

A call that the upstream certainly did not work on frees its key: a repetition is then a first call. Every other end,
failures too, is the key's outcome and stays. Calls without the header have nothing to do with any of this.
"""

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from django.db import Error as DatabaseFailure

from common.errors import Malformed, Problem, Unavailable
from consumption import claims
from consumption.answers import refusal
from consumption.call import CLAIM, Call
from consumption.claims import Found
from consumption.dialects.base import Answer
from consumption.errors import IdempotencyInFlight, IdempotencyKeyReused, IdempotencyOutcomeOnly
from consumption.kept_answers import KeptAnswers
from consumption.relay import Stream, Write
from consumption.settlement import Settlement, failed_entry
from keys.keyring import in_database_thread
from metering import journal
from quotas.admission import Lease

log = logging.getLogger(__name__)

Result = TypeVar("Result")

#: How long a call waits for PostgreSQL: longer, and it is 503.
ANSWER_SECONDS = 2.0
#: Connections to PostgreSQL that one gateway has for its claims.
THREADS = 4
RETRY_SECONDS = 1
REPLAYED = ("idempotent-replayed", "true")

_KEY = re.compile(r"[!-~]{1,255}")


class Idempotency:
    """What the calls of one gateway that carry a key have in common."""

    def __init__(self, kept: KeptAnswers, settlement: Settlement) -> None:
        self.kept = kept
        self.settlement = settlement
        self._threads = ThreadPoolExecutor(THREADS, "claims")

    def of(self, call: Call, consumer_id: uuid.UUID) -> "IdempotentCall":
        """A call that carries a key. Raises ``Malformed`` where the key is none."""
        text = call.idempotency_key or ""
        if not _KEY.fullmatch(text):
            raise Malformed("The Idempotency-Key must be 1 to 255 visible ASCII characters")
        request = [call.dialect.name.encode(), call.service_id.encode(), call.body]
        if call.betas:
            request.append(call.betas.encode())
        return IdempotentCall(self, call, claims.Key.of(consumer_id, text, *request))

    async def ask(self, question: Callable[[], Result]) -> Result:
        """Ask PostgreSQL, in a thread. Raises ``Unavailable`` where it does not answer in time."""
        try:
            return await self.asked(question)
        except (DatabaseFailure, TimeoutError) as error:
            log.warning("claims cannot be read: %s", type(error).__name__)
            raise Unavailable(retry_after=RETRY_SECONDS) from error

    async def asked(self, question: Callable[[], Result]) -> Result:
        """``ask``, with the failure as it comes. What is given up before its turn has come never runs."""
        asking = self._threads.submit(in_database_thread, question)
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asyncio.wrap_future(asking)

    def close(self) -> None:
        """Stop the threads; what waits for its turn is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class IdempotentCall:
    """One call under a key: ``told``, then ``claim``, then ``keep``."""

    def __init__(self, shared: Idempotency, call: Call, key: claims.Key) -> None:
        self._shared = shared
        self._call = call
        self._key = key
        self._given_up = False

    async def told(self) -> Answer | None:
        """The answer of a duplicate; None for a first call.

        Raises ``IdempotencyKeyReused`` where the key stands for another request, and ``Unavailable``.
        """
        found = await self._shared.ask(partial(claims.find, self._key))
        self._call.lap(CLAIM)
        return None if found is None else await self._duplicate(found)

    async def claim(self, lease: Lease, entry: journal.Entry) -> Answer | None:
        """Make the key stand for this call, which was let in; None where it does now.

        Else another call was first: the lease is released, and this is the answer of a duplicate. Raises as ``told``.
        """
        try:
            found = await self._shared.asked(self._take)
        except (DatabaseFailure, TimeoutError, asyncio.CancelledError) as failure:
            # The claim may be there, or come yet. Then it must have an outcome, so the lease ends in the ledger.
            self._given_up = True
            await self._shared.settlement.settle(
                failed_entry(entry, Unavailable.code, self._call.elapsed_ms), shard=lease.shard
            )
            if isinstance(failure, asyncio.CancelledError):
                raise
            log.warning("a key cannot be claimed: %s", type(failure).__name__)
            raise Unavailable(retry_after=RETRY_SECONDS) from failure
        self._call.lap(CLAIM)
        if found is None:
            return None
        await self._shared.settlement.release(lease)
        return await self._duplicate(found)

    async def keep(self, serving: Awaitable[Answer | Stream]) -> Answer | Stream:
        """Serve the claimed call, and keep its answer for duplicates before its last byte goes out."""
        try:
            answer = await serving
        except Problem as error:
            await self._failed(error)
            raise
        if isinstance(answer, Stream):
            return Stream(answer.headers, partial(self._relay, answer))
        await self._keep(answer)
        return answer

    # -- the claim -------------------------------------------------------------------------------------------------

    def _take(self) -> Found | None:
        """In a thread."""
        found = claims.take(self._key, self._call.request_id)
        if found is None and self._given_up:
            claims.free(self._key, self._call.request_id)
        return found

    async def _duplicate(self, found: Found) -> Answer:
        if found.digest != self._key.digest:
            raise IdempotencyKeyReused()
        kept = await self._shared.kept.find(self._key.consumer_id, found.request_id)
        if kept is not None:
            return kept
        if found.outcome is None:
            running = IdempotencyInFlight(retry_after=RETRY_SECONDS)
            return refusal(self._call, running, request_id=str(found.request_id))
        return self._outcome_only(found.request_id, found.outcome)

    def _outcome_only(self, request_id: uuid.UUID, outcome: str) -> Answer:
        error = IdempotencyOutcomeOnly(outcome=outcome)
        error.reached_upstream = True
        return refusal(self._call, error, request_id=str(request_id))

    # -- the answer ------------------------------------------------------------------------------------------------

    async def _failed(self, error: Problem) -> None:
        if error.nothing_done:
            try:
                await self._shared.ask(partial(claims.free, self._key, self._call.request_id))
            except Unavailable:
                log.warning("a key is not freed: its outcome stays")
        elif error.retry_after is None:
            # One that says "come back" is nobody's last word.
            await self._keep(refusal(self._call, error))

    async def _keep(self, answer: Answer) -> None:
        if len(answer.body) > self._shared.kept.most_bytes:
            await self._keep_outcome("success" if answer.status == 200 else "error")
            return
        await self._store(Answer(answer.status, [*answer.headers, REPLAYED], answer.body))

    async def _keep_outcome(self, outcome: str) -> None:
        await self._store(self._outcome_only(self._call.request_id, outcome))

    async def _store(self, answer: Answer) -> None:
        await self._shared.kept.keep(self._key.consumer_id, self._call.request_id, answer)

    # -- streams ---------------------------------------------------------------------------------------------------

    async def _relay(self, stream: Stream, write: Write) -> None:
        """Pass a stream on and take down what it says."""
        settlement, request_id = self._shared.settlement, self._call.request_id
        transcript = Transcript(self._shared.kept.most_bytes)

        def taking_down(data: bytes) -> Awaitable[None] | None:
            transcript.take(data)
            if settlement.is_open(request_id):
                return write(data)
            # A stream is settled before its last piece: this one.
            return self._end(stream, transcript, write, data)

        try:
            await stream.run(taking_down)
        except asyncio.CancelledError:
            if not transcript.ended:
                await self._keep_outcome("cancelled")
            raise

    async def _end(self, stream: Stream, transcript: "Transcript", write: Write, last: bytes) -> None:
        transcript.ended = True
        await self._keep(Answer(200, stream.headers, transcript.text()))
        waiting = write(last)
        if waiting is not None:
            await waiting


class Transcript:
    """What a stream has said; no more than a little over ``most_bytes`` is held."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self.ended = False

    def take(self, data: bytes) -> None:
        """The next piece."""
        if self._size <= self._most_bytes:
            self._pieces.append(data)
            self._size += len(data)

    def text(self) -> bytes:
        """All of it; longer than ``most_bytes`` where it was cut."""
        return b"".join(self._pieces)
