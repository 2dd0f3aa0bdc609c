"""A call that was let in: routed, priced and settled, whatever happens on the way. Its stream is in ``relay``."""

import asyncio
from decimal import Decimal

from catalog.snapshot import Endpoint
from common.errors import Problem
from consumption import metrics
from consumption.answers import Headers, served_headers
from consumption.call import PRICE, ROUTE, SETTLE, Call, Terms
from consumption.dialects.base import Answer, PaidRequest
from consumption.errors import LeaseLost
from consumption.protocols.base import Exchange
from consumption.relay import Relay, Stream
from consumption.replies import Bounds, Reply
from consumption.settlement import Settlement, failed_entry, settled_entry
from consumption.upstream import Upstream
from metering import journal
from quotas.admission import Lease


class PaidCall:
    """One call between its lease and its settlement."""

    def __init__(
        self,
        upstream: Upstream,
        settlement: Settlement,
        call: Call,
        terms: Terms,
        request: PaidRequest,
        endpoint: Endpoint,
        exchange: Exchange,
        lease: Lease,
        entry: journal.Entry,
    ) -> None:
        self.call = call
        self.terms = terms
        self.request = request
        self.exchange = exchange
        self.bounds = Bounds(prompt=lease.prompt_bound, completion=lease.output_cap * request.choices)
        self._upstream = upstream
        self._endpoint = endpoint
        self._settlement = settlement
        self._lease = lease
        self._entry = entry

    async def serve(self) -> Answer:
        """The whole answer, after it is settled."""
        call, terms, offer = self.call, self.terms, self.terms.offer
        try:
            body = await self._upstream.call(
                self._endpoint,
                self.exchange.path,
                self._upstream_body(),
                request_id=call.id,
                deadline=self._deadline(offer.deadline_seconds),
            )
            reply = self.exchange.reply(body, self.bounds)
        except BaseException as failure:
            raise await self._failed(failure) from failure
        call.lap(ROUTE)
        cost = self.cost(reply)
        call.lap(PRICE)
        await self.settle(reply, cost)
        call.lap(SETTLE)
        answer = call.dialect.success(call, terms, self._lease, reply, cost)
        return Answer(answer.status, answer.headers + self._headers(), answer.body)

    async def stream(self) -> Stream:
        """The answer's head, once the upstream has begun to answer."""
        offer = self.terms.offer
        try:
            opened = await self._upstream.open(
                self._endpoint,
                self.exchange.path,
                self._upstream_body(),
                request_id=self.call.id,
                deadline=self._deadline(offer.stream_deadline_seconds),
            )
        except BaseException as failure:
            raise await self._failed(failure) from failure
        self.call.lap(ROUTE)
        relay = Relay(self, opened)
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-store")]
        return Stream(headers + self._headers(), relay.run)

    def _upstream_body(self) -> bytes:
        return self.exchange.upstream_body(model=self._endpoint.model, output_cap=self._lease.output_cap)

    def _deadline(self, seconds: int) -> float:
        return asyncio.get_running_loop().time() + seconds - self.call.elapsed_ms / 1000

    def _headers(self) -> Headers:
        return served_headers(self.call, self.terms, self._lease)

    # -- the end of it ---------------------------------------------------------------------------------------------

    def cost(self, reply: Reply) -> Decimal:
        """What the call costs, at the price that held when it came in."""
        return self.terms.price.price.cost(reply.tokens, charged=True)

    async def settle(
        self, reply: Reply, cost: Decimal, *, status: journal.Status = "success", error: str | None = None
    ) -> None:
        """Put on record what was delivered, for good."""
        entry = settled_entry(self._entry, reply, cost, self.call.elapsed_ms, status=status, error=error)
        await self._settlement.settle(entry, shard=self._lease.shard)
        metrics.CONSUMPTION_REQUESTS.add(self.terms.offer.text, status)
        metrics.TOKENS_CONSUMED.add(self.terms.offer.text, self.terms.tier, count=reply.tokens.total)

    async def settle_nothing(self, code: str, *, status: journal.Status = "error") -> None:
        """Put on record that nothing was delivered, and why: it costs nothing."""
        metrics.CONSUMPTION_REQUESTS.add(self.terms.offer.text, status)
        entry = failed_entry(self._entry, code, self.call.elapsed_ms, status=status)
        await self._settlement.settle(entry, shard=self._lease.shard)

    async def _failed(self, failure: BaseException) -> BaseException:
        """Settle a call that brought nothing; returns what to raise."""
        raised, code = self.meaning_of(failure)
        await self.settle_nothing(code)
        return raised

    def meaning_of(self, failure: BaseException) -> tuple[BaseException, str]:
        """What a failure means to the caller, and its code for the ledger."""
        if isinstance(failure, Problem):
            return failure, failure.code
        if isinstance(failure, asyncio.CancelledError):
            if self._settlement.lost(self.call.request_id):
                return LeaseLost(retry_after=1), LeaseLost.code
            return failure, "cancelled"
        return failure, Problem.code
