"""Which endpoint a call goes to, and what its end says of that endpoint.

Of the usable endpoints of the lowest order, the one with the least outstanding requests for its weight; of several,
one at random by weight, so that the weights hold while little is asked too. Usable: its breaker lets a call through,
and it has not asked to be left alone. What is known of an endpoint is one gateway's own and outlives a new snapshot of
the catalogue; it belongs to the endpoint's id.
"""

import random
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from catalog.snapshot import Endpoint, Offer
from consumption.breaker import Breaker, State
from consumption.retries import Again, Verdict, pause_before_next

#: What an endpoint asks for (Retry-After) is granted up to here, or a wrong header would end a service.
MOST_COOLDOWN_SECONDS = 30.0
#: Busy without saying for how long: for this time it counts as having so many more requests outstanding. It stays
#: usable, since it may be the only one; but refusing is quick, and having the least would draw every call to it.
BUSY_SECONDS = 1.0
BUSY_REQUESTS = 10
#: Above any order of an endpoint: those of a fallback service come after all of the service itself.
_ORDERS = 1 << 16
_NO_ORDER = 1 << 62


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why an endpoint is not called. ``seconds``: until it is usable again, as far as anybody knows."""

    state: State
    seconds: float


class _Endpoint:
    """What is known of an endpoint. The clock is read only after trouble: most calls meet none."""

    __slots__ = ("breaker", "busy_until", "clock", "cool_until", "outstanding")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.breaker = Breaker(clock)
        self.clock = clock
        self.outstanding = 0
        self.cool_until: float | None = None
        self.busy_until: float | None = None

    def is_usable(self) -> bool:
        return (self.cool_until is None or self.clock() >= self.cool_until) and self.breaker.allows()

    def usable_in(self) -> float:
        cool = 0.0 if self.cool_until is None else self.cool_until - self.clock()
        return max(0.0, cool, self.breaker.allows_in())

    def load(self, weight: int) -> float:
        is_busy = self.busy_until is not None and self.clock() < self.busy_until
        return (self.outstanding + BUSY_REQUESTS * is_busy) / weight

    def cool(self, retry_after: float | None) -> None:
        if retry_after is None:
            self.busy_until = self.clock() + BUSY_SECONDS
        else:
            self.cool_until = self.clock() + min(max(retry_after, 0.0), MOST_COOLDOWN_SECONDS)


class Route:
    """A call's place at its endpoint until the first verdict; a context that is left without one abandons it."""

    __slots__ = ("_known", "_period", "endpoint")

    def __init__(self, endpoint: Endpoint, known: _Endpoint) -> None:
        self.endpoint = endpoint
        self._known: _Endpoint | None = known
        known.outstanding += 1
        self._period = known.breaker.begin()

    def answering(self) -> None:
        """The answer has begun in time: enough for a trial, which a long stream would hold for minutes."""
        if self._known is not None:
            self._period = self._known.breaker.succeeded(self._period)

    def ok(self) -> None:
        """The whole answer has come."""
        known = self._leave()
        if known is not None:
            known.breaker.succeeded(self._period)

    def failed(self) -> None:
        """The endpoint did not serve the call."""
        known = self._leave()
        if known is not None:
            known.breaker.failed(self._period)

    def rejected(self) -> None:
        """The caller's mistake: it says nothing of the endpoint."""
        self.abandoned()

    def busy(self, retry_after: float | None = None) -> None:
        """The endpoint said to come later; ``retry_after``: in so many seconds, where it said so."""
        known = self._leave()
        if known is not None:
            known.breaker.abandoned(self._period)
            known.cool(retry_after)

    def abandoned(self) -> None:
        """The caller went away before anything could be said."""
        known = self._leave()
        if known is not None:
            known.breaker.abandoned(self._period)

    def end(self, verdict: Verdict, *, retry_after: float | None = None) -> None:
        """End with what ``retries.judge`` found."""
        if verdict is Verdict.BUSY:
            self.busy(retry_after)
        else:
            _ENDS[verdict](self)

    def _leave(self) -> _Endpoint | None:
        known = self._known
        if known is not None:
            self._known = None
            known.outstanding -= 1
        return known

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._known is not None:
            self.abandoned()


_ENDS = {
    Verdict.OK: Route.ok,
    Verdict.FAILED: Route.failed,
    Verdict.REJECTED: Route.rejected,
    Verdict.ABANDONED: Route.abandoned,
}


class Router:
    """All endpoints that one gateway knows. ``clock`` is monotonic, in seconds. Use from one event loop only."""

    __slots__ = ("_clock", "_known")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: By the endpoint's id as text, which is hashed once: a UUID hashes slowly, and every time.
        self._known: dict[str, _Endpoint] = {}

    def choose(self, endpoints: Sequence[Endpoint], tried: Collection[str] = ()) -> Route | None:
        """A route to the best of ``endpoints`` whose id is not in ``tried``; None where none is usable.

        The caller ends the route.
        """
        if len(endpoints) == 1 and not tried:
            known = self._of(endpoints[0])
            return Route(endpoints[0], known) if known.is_usable() else None
        usable = [(e, known) for e in endpoints if e.text not in tried and (known := self._of(e)).is_usable()]
        if not usable:
            return None
        return Route(*_least_loaded(usable))

    def is_usable(self, endpoints: Iterable[Endpoint], tried: Collection[str] = ()) -> bool:
        """Whether ``choose`` would find one."""
        return any(e.text not in tried and self._of(e).is_usable() for e in endpoints)

    def usable_in(self, endpoints: Iterable[Endpoint]) -> float | None:
        """Seconds until the first of ``endpoints`` is usable, 0 where one is; None where there are none."""
        return min((self._of(endpoint).usable_in() for endpoint in endpoints), default=None)

    def state(self, endpoint: Endpoint) -> State:
        """The state of its breaker; closed where nothing is known of it."""
        known = self._known.get(endpoint.text)
        return State.CLOSED if known is None else known.breaker.state

    def keep(self, endpoints: Iterable[Endpoint]) -> None:
        """Forget all others. Calls that are still at one end as they would."""
        self._known = {e.text: self._known[e.text] for e in endpoints if e.text in self._known}

    def troubles(self) -> dict[str, Trouble]:
        """Every endpoint whose breaker is not closed, or that is cooling down, by its id."""
        found = {}
        for text, known in self._known.items():
            state, seconds = known.breaker.state, known.usable_in()
            if state is not State.CLOSED or seconds:
                found[text] = Trouble(state, seconds)
        return found

    def _of(self, endpoint: Endpoint) -> _Endpoint:
        known = self._known.get(endpoint.text)
        if known is None:
            known = self._known[endpoint.text] = _Endpoint(self._clock)
        return known


class Tries:
    """The tries of one call, each endpoint at most once before the first pause.

    ::

        tries = Tries(router, endpoints)
        while (route := tries.next_route()) is not None:
            with route:
                ...  # 200: route.ok(); return
                judged = judge(status, retry_after=seconds)
                route.end(judged.verdict, retry_after=seconds)
            pause = tries.pause(judged.again, remaining=deadline - loop.time())
            if pause is None:
                break
            if pause:
                await asyncio.sleep(pause)
    """

    __slots__ = ("_endpoints", "_pauses", "_router", "_tried")

    def __init__(self, router: Router, endpoints: tuple[Endpoint, ...]) -> None:
        self._router = router
        self._endpoints = endpoints
        self._tried: tuple[str, ...] = ()
        self._pauses = 0

    def next_route(self) -> Route | None:
        """Where the next try goes; the caller ends it. None: nowhere just now, ``usable_in`` says until when."""
        route = self._router.choose(self._endpoints, () if self._pauses else self._tried)
        if route is not None:
            self._tried += (route.endpoint.text,)
        return route

    def pause(self, again: Again, *, remaining: float) -> float | None:
        """Seconds until the next try, which is then due; None: there is none."""
        untried = self._router.is_usable(self._endpoints, self._tried)
        back_in = self.usable_in()
        pause = pause_before_next(
            again, pauses=self._pauses, untried=untried, back_in=back_in, remaining=remaining
        )
        self._pauses += bool(pause)
        return pause

    def usable_in(self) -> float | None:
        """Seconds until one of the endpoints is usable: what Retry-After tells. None where there are none."""
        return self._router.usable_in(self._endpoints)


def fallbacks_of(offer: Offer, offers: Mapping[uuid.UUID, Offer]) -> Iterator[Offer]:
    """The services that may serve in an offer's place, in their order.

    One that is not served (suspended, a draft) is passed over, and what it would fall back to is not.
    """
    seen = {offer.id}
    step = offer
    while step.fallback_id is not None and step.fallback_id not in seen:
        seen.add(step.fallback_id)
        following = offers.get(step.fallback_id)
        if following is None:
            return
        step = following
        if step.served:
            yield step


def in_turn(offers: Iterable[Offer]) -> tuple[Endpoint, ...]:
    """The endpoints of all offers, those of each after those of the one before: their ``order`` says so."""
    return tuple(
        replace(endpoint, order=_ORDERS * place + endpoint.order)
        for place, offer in enumerate(offers)
        for endpoint in offer.endpoints
    )


def _least_loaded(usable: list[tuple[Endpoint, _Endpoint]]) -> tuple[Endpoint, _Endpoint]:
    """The best of the lowest order; of several that are equally good, one in proportion to their weights."""
    least, best = (_NO_ORDER, 0.0), usable
    for pair in usable:
        rank = (pair[0].order, pair[1].load(pair[0].weight))
        if rank < least:
            least, best = rank, [pair]
        elif rank == least:
            best.append(pair)
    if len(best) == 1:
        return best[0]
    return random.choices(best, [endpoint.weight for endpoint, _ in best])[0]  # noqa: S311 - no secret  # nosec B311
