"""A call that was let in: routed, priced and settled, whatever happens on the way. Its stream is in ``relay``."""

import asyncio
from decimal import Decimal

from catalog.pricing import Price, Tokens
from common.errors import Problem
from common.money import plain
from consumption import metrics
from consumption.answers import Headers, served_headers
from consumption.call import PRICE, ROUTE, SETTLE, Call, Routing, Terms
from consumption.dialects.base import Answer, PaidRequest
from consumption.errors import LeaseLost
from consumption.estimates import estimate, rule_of
from consumption.relay import Relay, Stream
from consumption.replies import Bounds, Reply
from consumption.settlement import Settlement, failed_entry, settled_entry
from consumption.tokenizer import Tokenizer
from consumption.upstream import Outbound, Upstream
from consumption.upstream_connection import Patience
from metering import journal
from quotas.admission import Lease


class PaidCall:
    """One call between its lease and its settlement."""

    def __init__(
        self,
        upstream: Upstream,
        settlement: Settlement,
        tokenizer: Tokenizer,
        call: Call,
        terms: Terms,
        request: PaidRequest,
        routing: Routing,
        lease: Lease,
        entry: journal.Entry,
    ) -> None:
        self.call = call
        self.terms = terms
        self.request = request
        self.bounds = Bounds(prompt=lease.prompt_bound, completion=lease.output_cap * request.choices)
        self._upstream = upstream
        self._routing = routing
        self._settlement = settlement
        self._tokenizer = tokenizer
        self._lease = lease
        self._entry = entry
        #: What calls cost us where this one was answered, where that is known.
        self._upstream_price: Price | None = None

    async def serve(self) -> Answer:
        """The whole answer, after it is settled."""
        call, terms = self.call, self.terms
        try:
            reply = await self._fetch()
        except BaseException as failure:
            raise await self._failed(failure) from failure
        call.lap(ROUTE)
        cost = self.cost(reply)
        call.lap(PRICE)
        await self.settle(reply, cost)
        call.lap(SETTLE)
        answer = call.dialect.success(call, terms, self._lease, reply, cost)
        answer.headers.extend(self._headers())
        return answer

    async def _fetch(self) -> Reply:
        answered = await self._upstream.ask(self._outbound(self.terms.offer.deadline_seconds, whole=True))
        self._upstream_price = answered.price
        try:
            reply = answered.exchange.reply(answered.whole(), self.bounds)
        except BaseException as failure:
            answered.close(failure)
            raise
        answered.close()
        return reply if reply.written is None else await self.counted(reply)

    async def counted(self, reply: Reply) -> Reply:
        """The reply, its tokens counted where the upstream did not report them."""
        if reply.written is None:
            return reply
        rule, told = rule_of(self.terms.offer), reply.tokens
        found = await estimate(self._tokenizer, rule, self.request.prompt(), reply.written, self.bounds)
        prompt = told.prompt or found.prompt
        tokens = Tokens(prompt, found.completion, told.cached, found.reasoning, told.cache_write)
        return reply.with_tokens(tokens)

    async def stream(self) -> Stream:
        """The answer's head, once the upstream has begun to answer."""
        seconds = self.terms.offer.stream_deadline_seconds
        try:
            answered = await self._upstream.ask(self._outbound(seconds, whole=False))
        except BaseException as failure:
            raise await self._failed(failure) from failure
        self._upstream_price = answered.price
        self.call.lap(ROUTE)
        relay = Relay(self, answered)
        headers = [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-store")]
        return Stream(headers + self._headers(), relay.run)

    def _outbound(self, seconds: int, *, whole: bool) -> Outbound:
        offer = self.terms.offer
        patience = Patience(
            until=asyncio.get_running_loop().time() + seconds - self.call.elapsed_ms / 1000,
            connect=offer.connect_seconds,
            first_byte=offer.first_byte_seconds,
            idle=offer.idle_seconds,
            least_rate=offer.least_bytes_per_second,
        )
        return Outbound(
            self.call.id,
            self._routing.endpoints,
            self._routing.exchanges,
            self._lease.output_cap,
            patience,
            whole,
        )

    def _headers(self) -> Headers:
        return served_headers(self.call, self.terms)

    # -- the end of it ---------------------------------------------------------------------------------------------

    def cost(self, reply: Reply) -> Decimal:
        """What the call costs, at the price that held when it came in."""
        return self.terms.price.price.cost(reply.tokens, charged=True)

    def _upstream_cost(self, tokens: Tokens) -> str | None:
        """What it cost us; not known in another currency than the call's own."""
        price = self._upstream_price
        if price is None or price.currency != self._entry.currency:
            return None
        return plain(price.cost(tokens, charged=True))

    async def settle(
        self, reply: Reply, cost: Decimal, *, status: journal.Status = "success", error: str | None = None
    ) -> None:
        """Put on record what was delivered, for good."""
        entry = settled_entry(
            self._entry,
            reply,
            cost,
            self.call.elapsed_ms,
            status=status,
            error=error,
            upstream_cost=None if self._upstream_price is None else self._upstream_cost(reply.tokens),
        )
        await self._settlement.settle(entry, shard=self._lease.shard, ready=self.terms.ready)
        metrics.CONSUMPTION_REQUESTS.add(self.terms.offer.text, status)
        metrics.TOKENS_CONSUMED.add(self.terms.offer.text, self.terms.tier, count=reply.tokens.total)

    async def settle_nothing(self, code: str, *, status: journal.Status = "error") -> None:
        """Put on record that nothing was delivered, and why: it costs nothing."""
        metrics.CONSUMPTION_REQUESTS.add(self.terms.offer.text, status)
        entry = failed_entry(self._entry, code, self.call.elapsed_ms, status=status)
        await self._settlement.settle(entry, shard=self._lease.shard, ready=self.terms.ready)

    async def _failed(self, failure: BaseException) -> BaseException:
        """Settle a call that brought nothing; returns what to raise."""
        raised, code = self.meaning_of(failure)
        await self.settle_nothing(code, status="cancelled" if code == "cancelled" else "error")
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
