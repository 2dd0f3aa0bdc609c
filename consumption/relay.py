"""A stream on its way through: passed on as it comes, metered, and settled before its last event."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from common.errors import Problem
from consumption import sse
from consumption.answers import Headers
from consumption.call import SETTLE
from consumption.errors import UpstreamFailed
from consumption.upstream import Answered
from metering import journal

if TYPE_CHECKING:
    from consumption.paid_call import PaidCall

#: Sends a piece to the client. Where the client does not keep up it returns what to wait for; that raises
#: ``CancelledError`` for a client that has gone.
Write = Callable[[bytes], Awaitable[None] | None]
#: What a transport cancels a stream with whose client has gone. A server that stops cancels without a word.
CLIENT_GONE = "client gone"


class Stream(msgspec.Struct, frozen=True):
    """A 200 whose body is still to come. Whoever gets it must ``run`` it, once: that is what settles the call."""

    headers: Headers
    run: Callable[[Write], Awaitable[None]]


class Relay:
    """One stream, from its first byte to its settlement."""

    __slots__ = ("_answered", "_delivered", "_events", "_paid", "_reader")

    def __init__(self, paid: "PaidCall", answered: Answered) -> None:
        self._paid = paid
        self._answered = answered
        self._events = sse.EventReader()
        self._reader = answered.exchange.reader(paid.bounds)
        self._delivered = False

    async def run(self, write: Write) -> None:
        """Pass everything on. However it ends, what was delivered is charged and on record."""
        paid, call = self._paid, self._paid.call
        try:
            await _cancelled_before()
            await self._pass_on(write)
        except BaseException as failure:
            raised, code = paid.meaning_of(failure)
            wrong: BaseException | None = failure
            if failure.args == (CLIENT_GONE,) and paid.terms.offer.on_client_gone == "drain":
                wrong = await self._drain()
            self._answered.close(wrong)
            await self._settle_broken(code)
            if isinstance(raised, Problem):
                await _done(write(call.dialect.broken(raised, call.id)))
                return
            raise raised from failure
        self._answered.close()
        reply = await self._paid.counted(self._reader.reply())
        cost = paid.cost(reply)
        await paid.settle(reply, cost)
        call.lap(SETTLE)
        last = call.dialect.last(call, paid.terms, paid.request, reply, cost)
        await _done(write(self._reader.closing(reply.tokens) + last))

    async def _drain(self) -> BaseException | None:
        """Read on without the client, as the service says: all that the upstream made is charged.

        Returns what was wrong with the rest of the answer.
        """
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        try:
            await self._pass_on(_nobody)
        except (Exception, asyncio.CancelledError) as failure:  # noqa: BLE001 - whatever it is, the call is settled
            return failure
        return None

    async def _pass_on(self, write: Write) -> None:
        while not self._reader.done:
            data = await self._answered.read()
            # The last event of all may lack what ends it.
            waiting = self._pass_on_events(data or sse.END, write)
            if waiting is not None:
                await waiting
            if not data and not self._reader.done:
                await _done(self._end(write))

    def _pass_on_events(self, data: bytes, write: Write) -> Awaitable[None] | None:
        """All whole events that came with one read leave in one write, also those before a bad one."""
        out: list[bytes] = []
        try:
            out.extend(map(self._take, self._events.feed(data)))
        except UpstreamFailed as failure:
            return _then(self._send(out, write), failure)
        return self._send(out, write)

    def _send(self, out: list[bytes], write: Write) -> Awaitable[None] | None:
        told = b"".join(out)
        if not told:
            return None
        self._delivered = True
        return write(told)

    def _take(self, event: bytes) -> bytes:
        """What the caller gets for one event. What comes behind the end, its usage too, is nobody's."""
        chunk = None if self._reader.done else self._reader.read(event)
        if chunk is None:
            return b""
        return self._paid.call.dialect.chunk(self._paid.call, self._paid.request, chunk)

    def _end(self, write: Write) -> Awaitable[None] | None:
        """The body has ended without the stream's own end. Where more is missing it must not look whole."""
        chunk = self._reader.body_ended()
        if chunk is None:
            return None
        return self._send([self._paid.call.dialect.chunk(self._paid.call, self._paid.request, chunk)], write)

    async def _settle_broken(self, code: str) -> None:
        """What was delivered before it broke off is charged; nothing delivered costs nothing."""
        status: journal.Status = "cancelled" if code == "cancelled" else "error"
        if not self._delivered:
            await self._paid.settle_nothing(code, status=status)
            return
        reply = await self._paid.counted(self._reader.reply())
        await self._paid.settle(reply, self._paid.cost(reply), status=status, error=code)


async def _cancelled_before() -> None:
    """Raise a cancel that came before now: what is there already is passed on without a pause in which it could."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        await asyncio.sleep(0)


async def _then(sending: Awaitable[None] | None, failure: UpstreamFailed) -> None:
    """What came before the failure goes out first."""
    await _done(sending)
    raise failure


def _nobody(data: bytes) -> None:
    """Where a stream goes whose client has gone."""


async def _done(waiting: Awaitable[None] | None) -> None:
    if waiting is not None:
        await waiting
