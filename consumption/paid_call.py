"""A call that was let in: routed, priced and settled, whole or as a stream, whatever happens on the way."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal

from common import ids
from common.errors import Problem
from consumption import metrics, sse
from consumption.answers import Headers, served_headers
from consumption.call import Call, Terms
from consumption.dialects.base import Answer, PaidRequest
from consumption.errors import LeaseLost, UpstreamFailed
from consumption.replies import Bounds, Chunk, Reply, estimate, meter, read_chunk, read_reply
from consumption.settlement import Settlement, failed_entry, settled_entry
from consumption.upstream import OpenAnswer, Upstream
from metering import journal
from quotas.admission import Lease

log = logging.getLogger(__name__)

#: Sends a piece to the client. Where the client does not keep up it returns what to wait for; that raises
#: ``CancelledError`` for a client that has gone.
Write = Callable[[bytes], Awaitable[None] | None]


@dataclass(frozen=True, slots=True)
class Stream:
    """A 200 whose body is still to come. Whoever gets it must ``run`` it, once: that is what settles the call."""

    headers: Headers
    run: Callable[[Write], Awaitable[None]]


class PaidCall:
    """One call between its lease and its settlement."""

    def __init__(
        self,
        upstream: Upstream,
        settlement: Settlement,
        call: Call,
        terms: Terms,
        request: PaidRequest,
        lease: Lease,
        entry: journal.Entry,
    ) -> None:
        self._upstream = upstream
        self._settlement = settlement
        self._call = call
        self._terms = terms
        self._request = request
        self._lease = lease
        self._entry = entry
        self._bounds = Bounds(prompt=lease.prompt_bound, completion=lease.output_cap * request.choices)

    async def serve(self) -> Answer:
        """The whole answer, after it is settled."""
        try:
            reply = await self._fetch()
        except BaseException as failure:
            raise await self._failed(failure) from failure
        self._call.lap("route")
        cost = self._cost(reply)
        self._call.lap("price")
        await self._settle(reply)
        self._call.lap("settle")
        answer = self._call.dialect.success(self._call, self._terms, self._lease, reply, cost)
        return Answer(answer.status, answer.headers + self._headers(), answer.body)

    async def stream(self) -> Stream:
        """The answer's head, once the upstream has begun to answer."""
        try:
            opened = await self._open()
        except BaseException as failure:
            raise await self._failed(failure) from failure
        self._call.lap("route")
        relay = Relay(self, opened)
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-store")]
        return Stream(headers + self._headers(), relay.run)

    # -- the upstream ----------------------------------------------------------------------------------------------

    async def _fetch(self) -> Reply:
        body = await self._upstream.call(
            self._terms.offer,
            self._request.path,
            self._upstream_body(),
            request_id=ids.text(self._call.request_id),
            deadline=self._deadline(self._terms.offer.deadline_seconds),
        )
        return read_reply(body, self._bounds)

    async def _open(self) -> OpenAnswer:
        return await self._upstream.open(
            self._terms.offer,
            self._request.path,
            self._upstream_body(),
            request_id=ids.text(self._call.request_id),
            deadline=self._deadline(self._terms.offer.stream_deadline_seconds),
        )

    def _upstream_body(self) -> bytes:
        return self._request.upstream_body(model=self._terms.offer.model, output_cap=self._lease.output_cap)

    def _deadline(self, seconds: int) -> float:
        return asyncio.get_running_loop().time() + seconds - self._call.elapsed_ms / 1000

    # -- the end of it ---------------------------------------------------------------------------------------------

    def _headers(self) -> Headers:
        return served_headers(self._call, self._terms, self._lease)

    def _cost(self, reply: Reply) -> Decimal:
        return self._terms.price.price.cost(reply.tokens, charged=True)

    async def _settle(
        self, reply: Reply, *, status: journal.Status = "success", error: str | None = None
    ) -> None:
        entry = settled_entry(
            self._entry, reply, self._cost(reply), self._call.elapsed_ms, status=status, error=error
        )
        await self._settlement.settle(entry)
        service = ids.text(self._terms.offer.id)
        metrics.child(metrics.CONSUMPTION_REQUESTS, service, status).inc()
        metrics.child(metrics.TOKENS_CONSUMED, service, self._terms.tier).inc(reply.tokens.total)

    async def _failed(self, failure: BaseException) -> BaseException:
        """Settle a call that brought nothing, at no cost; returns what to raise."""
        raised, code = self._read(failure)
        metrics.child(metrics.CONSUMPTION_REQUESTS, ids.text(self._terms.offer.id), "error").inc()
        await self._settlement.settle(failed_entry(self._entry, code, self._call.elapsed_ms))
        return raised

    def _read(self, failure: BaseException) -> tuple[BaseException, str]:
        """What a failure means to the caller, and its code for the ledger."""
        if isinstance(failure, Problem):
            return failure, failure.code
        if isinstance(failure, asyncio.CancelledError):
            if self._settlement.lost(self._call.request_id):
                return LeaseLost(retry_after=1), LeaseLost.code
            return failure, "cancelled"
        return failure, Problem.code


async def _written(write: Write, data: bytes) -> None:
    waiting = write(data)
    if waiting is not None:
        await waiting


class Relay:
    """A stream on its way through: passed on as it comes, metered, settled before its last event."""

    def __init__(self, paid: PaidCall, opened: OpenAnswer) -> None:
        self._paid = paid
        self._opened = opened
        self._reader = sse.EventReader()
        self._usage: object = None
        self._written_bytes = 0
        self._delivered = False
        self._done = False

    async def run(self, write: Write) -> None:
        """Pass everything on. However it ends, what was delivered is charged and on record."""
        paid = self._paid
        call, dialect = paid._call, paid._call.dialect
        try:
            await self._pass_on(write)
        except BaseException as failure:
            raised, code = paid._read(failure)
            status: journal.Status = "cancelled" if code == "cancelled" else "error"
            await self._settle(status=status, error=code)
            if isinstance(raised, Problem):
                await _written(write, dialect.broken(raised, ids.text(call.request_id)))
                return
            raise raised from failure
        finally:
            self._opened.close()
        reply = self._reply()
        await paid._settle(reply)
        call.lap("settle")
        await _written(write, dialect.last(call, paid._terms, paid._request, reply, paid._cost(reply)))

    async def _pass_on(self, write: Write) -> None:
        while data := await self._opened.read():
            await self._pass_on_events(data, write)
            if self._done:
                return
        # Without its [DONE] the stream was cut: to the caller it must not look whole.
        failure = UpstreamFailed()
        failure.reached_upstream = True
        raise failure

    async def _pass_on_events(self, data: bytes, write: Write) -> None:
        """All whole events that came with one read leave in one write, also those before a bad one."""
        out: list[bytes] = []
        try:
            out += map(self._take, self._reader.feed(data))
        finally:
            if any(out):
                self._delivered = True
                await _written(write, b"".join(out))

    def _take(self, event: bytes) -> bytes:
        """What the caller gets for one event."""
        if event == sse.DONE:
            self._done = True
            return b""
        chunk: Chunk = read_chunk(event)
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            self._written_bytes += len(choice.written.encode())
        return self._paid._call.dialect.chunk(self._paid._call, self._paid._request, chunk)

    def _reply(self) -> Reply:
        bounds = self._paid._bounds
        tokens, source = meter(self._usage, bounds)
        return Reply((), tokens or estimate(self._written_bytes, bounds), source)

    async def _settle(self, *, status: journal.Status, error: str) -> None:
        """What was delivered before it broke off is charged; nothing delivered costs nothing."""
        if self._delivered:
            await self._paid._settle(self._reply(), status=status, error=error)
        else:
            paid = self._paid
            entry = failed_entry(paid._entry, error, paid._call.elapsed_ms, status=status)
            await paid._settlement.settle(entry)
