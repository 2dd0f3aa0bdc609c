"""One paid call, from a key and some bytes to an answer: the steps, in their order."""

import asyncio
import logging
import uuid

from prometheus_client import Counter

from analytics import events
from analytics.buffer import EventBuffer
from catalog.snapshot import Offer, Snapshot
from common.errors import Problem, Unavailable
from common.ids import milliseconds_of
from consumption import metrics, requests, settlement
from consumption.answers import Answer, problem, success
from consumption.call import Call, Terms
from consumption.errors import AccessDenied, LeaseLost, PolicyDenied, ServiceNotFound, ServiceSuspended
from consumption.requests import ConsumeRequest
from consumption.settlement import Settlement
from consumption.upstream import Bounds, Reply, Upstream
from keys.grants import Grant
from keys.keyring import Keyring
from metering import journal
from policy.engine import PolicyEngine, Question, classification_of
from quotas.admission import Admission, Ask, Lease
from quotas.errors import QuotaExceeded, QuotaReserved, RateLimited

log = logging.getLogger(__name__)


class Gateway:
    """The steps of a call and what they need. One per process and event loop."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        admission: Admission,
        upstream: Upstream,
        settlement: Settlement,
        events: EventBuffer,
        most_body_bytes: int,
    ) -> None:
        self.keyring = keyring
        self.admission = admission
        self.upstream = upstream
        self.settlement = settlement
        self.events = events
        self.most_body_bytes = most_body_bytes
        #: Replaced as a whole when the database says that it changed.
        self.snapshot = Snapshot()
        self.policies = PolicyEngine(())

    async def consume(self, call: Call) -> Answer:
        """Serve one call. Raises a ``Problem`` for every refusal and failure; a refusal consumes nothing."""
        grant = await self.keyring.authenticate(call.key)
        call.lap("authenticate")
        terms = self.resolve(call, grant)
        request = requests.parse(call.body, most_bytes=self.most_body_bytes)
        call.lap("resolve")
        self.check_policy(call, terms, request)
        call.lap("policy")
        entry = settlement.unsettled_entry(call, terms, request)
        lease = await self.admit(call, terms, request, entry)
        call.lap("admit")
        reply = await self.route(call, terms, request, lease, entry)
        call.lap("route")
        cost = terms.price.price.cost(reply.tokens, charged=True)
        call.lap("price")
        await self.settlement.settle(settlement.settled_entry(entry, reply, cost, call.elapsed_ms))
        call.lap("settle")
        _count_success(terms, reply)
        return success(call, terms, lease, reply, cost)

    async def answer(self, call: Call) -> Answer:
        """``consume``, with every refusal, failure and defect turned into the answer that callers see."""
        try:
            return await self.consume(call)
        except Problem as error:
            return problem(error, str(call.request_id))
        except Exception:
            log.exception("a defect, request %s", call.request_id)
            return problem(Problem(), str(call.request_id))

    def resolve(self, call: Call, grant: Grant) -> Terms:
        """The offer, the price that holds at the call's id, and the limits of the tier in force."""
        offer = self._offer(call.service_id)
        if not grant.reaches(offer.id):
            raise AccessDenied()
        if not offer.served:
            raise ServiceSuspended()
        price = offer.price_at(milliseconds_of(call.request_id))
        tier = grant.tier_for(offer.id)
        limits = self.snapshot.tiers.get(tier)
        if price is None or limits is None:
            raise Unavailable("The service has no price yet", retry_after=1)
        return Terms(grant, offer, price, tier, limits)

    def _offer(self, service_id: str) -> Offer:
        try:
            offer = self.snapshot.offers.get(uuid.UUID(service_id))
        except ValueError:
            offer = None
        if offer is None or not offer.listed:
            raise ServiceNotFound()
        return offer

    def check_policy(self, call: Call, terms: Terms, request: ConsumeRequest) -> None:
        """Raises ``PolicyDenied`` with the policy's own words where a rule forbids the call."""
        grant, offer = terms.grant, terms.offer
        decision = self.policies.decide(
            Question(
                consumer_id=str(grant.consumer_id),
                residency=grant.residency,
                service_id=str(offer.id),
                service_name=offer.name,
                region=offer.region,
                clearance=offer.clearance,
                tier=terms.tier,
                classification=classification_of(request.metadata),
                address=call.address,
            )
        )
        if decision.allowed:
            return
        metrics.child(metrics.POLICY_VIOLATIONS, str(offer.id), decision.policy_id, decision.severity).inc()
        refused = {"policy_id": decision.policy_id, "severity": decision.severity, "reason": decision.reason}
        self._tell("policy_violation", call, terms, refused)
        raise PolicyDenied(decision.reason, policy_id=decision.policy_id)

    async def admit(self, call: Call, terms: Terms, request: ConsumeRequest, entry: journal.Entry) -> Lease:
        """All limits at once, or a refusal that says which one and when to come back."""
        ask = Ask(
            request_id=call.request_id,
            consumer_id=terms.grant.consumer_id,
            service_id=terms.offer.id,
            requests_per_second=terms.limits.requests_per_second,
            tokens_per_month=terms.limits.tokens_per_month,
            prompt_bound=requests.prompt_bound(request),
            output_cap=request.max_tokens or terms.offer.default_max_tokens,
            choices=request.n,
            cap_named=request.max_tokens is not None,
            unsettled=journal.encode(entry),
        )
        try:
            lease = await self.admission.admit(ask)
        except RateLimited:
            self._refused(metrics.RATE_LIMITS_EXCEEDED, "rate_limit_exceeded", call, terms)
            raise
        except (QuotaExceeded, QuotaReserved):
            self._refused(metrics.QUOTA_EXCEEDED, "quota_exceeded", call, terms)
            raise
        self.settlement.opened(lease)
        return lease

    async def route(
        self, call: Call, terms: Terms, request: ConsumeRequest, lease: Lease, entry: journal.Entry
    ) -> Reply:
        """The upstream's reply. A failure is settled, at no cost, before it is raised."""
        deadline = asyncio.get_running_loop().time() + terms.offer.deadline_seconds - call.elapsed_ms / 1000
        bounds = Bounds(prompt=lease.prompt_bound, completion=lease.output_cap * request.n)
        body = requests.upstream_body(request, model=terms.offer.model, output_cap=lease.output_cap)
        try:
            return await self.upstream.chat(
                terms.offer, body, request_id=str(call.request_id), deadline=deadline, bounds=bounds
            )
        except Problem as failure:
            await self._settle_failure(call, terms, entry, failure.code)
            raise
        except asyncio.CancelledError as cancelled:
            lost = self.settlement.lost(call.request_id)
            await self._settle_failure(call, terms, entry, LeaseLost.code if lost else "cancelled")
            if lost:
                raise LeaseLost(retry_after=1) from cancelled
            raise
        except Exception:
            await self._settle_failure(call, terms, entry, Problem.code)
            raise

    async def _settle_failure(self, call: Call, terms: Terms, entry: journal.Entry, code: str) -> None:
        metrics.child(metrics.CONSUMPTION_REQUESTS, str(terms.offer.id), "error").inc()
        await self.settlement.settle(settlement.failed_entry(entry, code, call.elapsed_ms))

    def _refused(self, counter: Counter, event: events.Type, call: Call, terms: Terms) -> None:
        metrics.child(counter, str(terms.offer.id), terms.tier).inc()
        self._tell(event, call, terms, {"tier": terms.tier})

    def _tell(self, event: events.Type, call: Call, terms: Terms, more: dict[str, str]) -> None:
        self.events.offer(
            type=event,
            id=str(call.request_id),
            subject=str(terms.offer.id),
            data={
                "request_id": str(call.request_id),
                "consumer_id": str(terms.grant.consumer_id),
                "service_id": str(terms.offer.id),
                **more,
            },
        )


def _count_success(terms: Terms, reply: Reply) -> None:
    service = str(terms.offer.id)
    metrics.child(metrics.CONSUMPTION_REQUESTS, service, "success").inc()
    metrics.child(metrics.TOKENS_CONSUMED, service, terms.tier).inc(reply.tokens.total)
