"""One paid call, from a key and some bytes to an answer: the steps, in their order."""

import logging
from collections.abc import Callable, Iterable

from analytics import events
from analytics.buffer import EventBuffer
from catalog.snapshot import Offer, PricedVersion, Snapshot
from common.errors import Problem, Unavailable
from common.ids import milliseconds_of
from consumption import metrics, settlement
from consumption.answers import refusal
from consumption.call import ADMIT, AUTHENTICATE, POLICY, RESOLVE, Call, Routing, Terms
from consumption.dialects.base import Answer, PaidRequest
from consumption.errors import AccessDenied, PolicyDenied, ServiceNotFound, ServiceSuspended
from consumption.idempotency import Idempotency
from consumption.local_mode import LocalMode
from consumption.paid_call import PaidCall
from consumption.protocols.exchanges import routing_of
from consumption.relay import Stream
from consumption.routing import fallbacks_of, in_turn
from consumption.settlement import Settlement
from consumption.tokenizer import Tokenizer
from consumption.upstream import Upstream
from keys.grants import Grant
from keys.keyring import Keyring
from keys.models import Scope
from metering import journal
from policy.engine import Decision, PolicyEngine, Question, classification_of
from quotas.admission import Admission, Ask, Lease
from quotas.commands import Counted, Ready
from quotas.errors import QUOTA_REFUSALS, RATE_REFUSALS, Away, LimitReached, QuotaReserved
from quotas.limits import limits_of, may_be_shared
from quotas.names import names_of
from quotas.refusals import RETRY_SECONDS
from quotas.shares import Shares

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
        shares: Shares,
        local: LocalMode,
        tokenizer: Tokenizer,
        idempotency: Idempotency,
        events: EventBuffer,
        most_body_bytes: int,
    ) -> None:
        self.keyring = keyring
        self.admission = admission
        self.upstream = upstream
        self.settlement = settlement
        self.shares = shares
        self.local = local
        self.tokenizer = tokenizer
        self.idempotency = idempotency
        self.events = events
        self.most_body_bytes = most_body_bytes
        #: Replaced as a whole when the database says that it changed.
        self.snapshot = Snapshot()
        self.policies = PolicyEngine(())

    async def consume(self, call: Call) -> Answer | Stream:
        """Serve one call. Raises a ``Problem`` for every refusal and failure; a refusal consumes nothing."""
        grant = await self.keyring.authenticate(call.key, call.address)
        grant.require(Scope.CONSUME)
        call.lap(AUTHENTICATE)
        request = call.dialect.parse(call, most_bytes=self.most_body_bytes)
        once = None
        if call.idempotency_key is not None:
            once = self.idempotency.of(call, grant.consumer_id)
            if (told := await once.told()) is not None:
                return told
        terms = self.resolve(call, grant, request)
        call.lap(RESOLVE)
        self.check_policy(call, terms, request)
        call.lap(POLICY)
        routing = self.route(call, terms, request)
        entry = settlement.unsettled_entry(call, terms, request)
        lease = await self.admit(call, terms, request, entry)
        call.lap(ADMIT)
        if once is not None and (told := await once.claim(lease, entry)) is not None:
            return told
        paid = PaidCall(
            self.upstream, self.settlement, self.tokenizer, call, terms, request, routing, lease, entry
        )
        serving = paid.stream() if request.stream else paid.serve()
        return await (serving if once is None else once.keep(serving))

    async def answer(self, call: Call) -> Answer | Stream:
        """``consume``, with every refusal, failure and defect turned into the answer that callers see."""
        try:
            return await self.consume(call)
        except Problem as error:
            return refusal(call, error)
        except Exception:
            log.exception("a defect, request %s", call.id)
            return refusal(call, Problem())

    async def models(self, call: Call, listed: Callable[[Iterable[tuple[str, Offer]]], Answer]) -> Answer:
        """What the key may give as ``model``, told by ``listed``: each service it reaches, by its shortest name."""
        try:
            grant = await self.keyring.authenticate(call.key, call.address)
            grant.require(Scope.CONSUME)
        except Problem as error:
            return refusal(call, error)
        names = self.snapshot.names_for(grant.testing)
        reached = {
            name: offer
            for name, offer in sorted(names.items())
            if offer.served
            and grant.reaches(offer.id)
            and offer.testing == grant.testing
            and ("@" not in name or names[offer.name] is not offer)
        }
        return listed(reached.items())

    def resolve(self, call: Call, grant: Grant, request: PaidRequest) -> Terms:
        """The offer, the price that holds at the call's id, and the limits of the tier in force."""
        offer = self.snapshot.find(request.service, testing=grant.testing)
        if offer is None:
            raise ServiceNotFound()
        price = offer.price_at(milliseconds_of(call.request_id))
        terms: Terms | None = grant.remembered.get(offer.text)
        # Offers are made anew with every change of the catalogue, grants with every change of what a key may do.
        if terms is None or terms.offer is not offer or terms.price is not price:
            terms = grant.remembered[offer.text] = self._terms(grant, offer, price)
        return terms

    def _terms(self, grant: Grant, offer: Offer, price: PricedVersion | None) -> Terms:
        if not offer.listed:
            raise ServiceNotFound()
        tier = grant.tier_for(offer.id)
        if tier is None or offer.testing != grant.testing:
            raise AccessDenied()
        if not offer.served:
            raise ServiceSuspended()
        limits = self.snapshot.tiers.get(tier)
        if price is None or limits is None:
            raise Unavailable("The service has no price yet", retry_after=1)
        limits = grant.limits_at(offer.id, limits)
        held = limits_of(grant, offer, price.price, limits)
        counted = Counted(grant.limits.lineage, price.price.currency)
        ready = Ready(names_of(grant.consumer_id, offer.id), held, counted)
        blank = settlement.blank_of(grant, offer, price, tier, held)
        return Terms(grant, offer, price, tier, held, ready, blank, offer.local and may_be_shared(held))

    def route(self, call: Call, terms: Terms, request: PaidRequest) -> Routing:
        """Where the call may go: the service's endpoints, then those of its fallbacks that policy allows it too.

        Raises ``Unavailable`` where there are none, ``NotSupported`` where none speaks of what is asked.
        """
        offer = terms.offer
        endpoints = offer.endpoints
        if offer.fallback_id is not None:
            fallbacks = fallbacks_of(offer, self.snapshot.offers)
            allowed = [each for each in fallbacks if self._decide(call, terms, each, request).allowed]
            endpoints = in_turn([offer, *allowed])
        if not endpoints:
            raise Unavailable(retry_after=1)
        return routing_of(request, endpoints)

    def check_policy(self, call: Call, terms: Terms, request: PaidRequest) -> None:
        """Raises ``PolicyDenied`` with the policy's own words where a rule forbids the call."""
        offer = terms.offer
        decision = self._decide(call, terms, offer, request)
        if decision.allowed:
            return
        metrics.POLICY_VIOLATIONS.add(offer.text, decision.policy_id, decision.severity)
        refused = {"policy_id": decision.policy_id, "severity": decision.severity, "reason": decision.reason}
        self._tell("policy_violation", call, terms, refused)
        raise PolicyDenied(decision.reason, policy_id=decision.policy_id)

    def _decide(self, call: Call, terms: Terms, offer: Offer, request: PaidRequest) -> Decision:
        grant = terms.grant
        return self.policies.decide(
            Question(
                consumer_id=grant.consumer_text,
                residency=grant.residency,
                service_id=offer.text,
                service_name=offer.name,
                region=offer.region,
                clearance=offer.clearance,
                tier=terms.tier,
                classification=classification_of(request.metadata),
                address=call.address,
            )
        )

    async def admit(self, call: Call, terms: Terms, request: PaidRequest, entry: journal.Entry) -> Lease:
        """All limits at once, or a refusal that says which one and when to come back."""
        ask = Ask(
            id=call.id,
            request_id=call.request_id,
            consumer_id=terms.grant.consumer_id,
            service_id=terms.offer.id,
            limits=terms.limits,
            prompt_bound=request.prompt_bound(),
            output_cap=(request.max_tokens or terms.offer.default_max_tokens) if request.writes else 0,
            choices=request.choices,
            cap_named=request.max_tokens is not None or not request.writes,
            unsettled=terms.blank.encoded(entry, call.id),
            ready=terms.ready,
        )
        try:
            try:
                lease = await self.admission.admit(ask)
            except Away:
                lease = await self._admit_alone(ask, terms.offer)
        except LimitReached as refusal:
            call.rate = refusal.rate
            if isinstance(refusal, QUOTA_REFUSALS):
                self._refused(metrics.QUOTA_EXCEEDED, "quota_exceeded", call, terms)
            elif isinstance(refusal, RATE_REFUSALS):
                self._refused(metrics.RATE_LIMITS_EXCEEDED, "rate_limit_exceeded", call, terms)
            if terms.shared and isinstance(refusal, QuotaReserved):
                self.shares.crowded(terms.ready)
            raise
        if terms.shared:
            self.shares.seen(terms.ready)
        call.rate = lease.rate
        self.settlement.opened(lease, ask)
        return lease

    async def _admit_alone(self, ask: Ask, offer: Offer) -> Lease:
        """Out of this gateway's share, where Valkey is away and the service is one that allows it."""
        if not offer.local:
            raise Away(retry_after=RETRY_SECONDS)
        lease = await self.local.admit(ask)
        metrics.LOCAL_ADMISSIONS.add(offer.text)
        return lease

    def _refused(self, counter: metrics.Tally, event: events.Type, call: Call, terms: Terms) -> None:
        counter.add(terms.offer.text, terms.tier)
        self._tell(event, call, terms, {"tier": terms.tier})

    def _tell(self, event: events.Type, call: Call, terms: Terms, more: dict[str, str]) -> None:
        self.events.offer(
            type=event,
            id=call.id,
            subject=terms.offer.text,
            data={
                "request_id": call.id,
                "consumer_id": terms.grant.consumer_text,
                "service_id": terms.offer.text,
                **more,
            },
        )
