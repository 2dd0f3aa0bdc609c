"""Which endpoint a call goes to, on a clock of the test's own."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.snapshot import Endpoint, Offer
from consumption.breaker import FIRST_OPEN_SECONDS, State
from consumption.retries import Again, Verdict
from consumption.routing import (
    BUSY_SECONDS,
    MOST_COOLDOWN_SECONDS,
    Route,
    Router,
    Tries,
    fallbacks_of,
    in_turn,
)
from tests.harness.clock import Clock


def endpoint(weight: int = 1, order: int = 0) -> Endpoint:
    return Endpoint(uuid.uuid4(), "http://127.0.0.1:9/v1", "openai", "m", weight, order)


@pytest.fixture(autouse=True)
def same_chances() -> Iterator[None]:
    before = random.getstate()
    random.seed(7)
    yield
    random.setstate(before)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def router(clock: Clock) -> Router:
    return Router(clock)


def route(router: Router, *endpoints: Endpoint, tried: tuple[str, ...] = ()) -> Route:
    found = router.choose(endpoints, tried)
    assert found is not None
    return found


def chosen(router: Router, *endpoints: Endpoint) -> Endpoint:
    """Where the next call goes; it stays there."""
    return route(router, *endpoints).endpoint


def open_breaker(router: Router, at: Endpoint) -> None:
    for _ in range(5):
        route(router, at).failed()
    assert router.state(at) is State.OPEN


# -- the choice


def test_the_one_with_the_least_outstanding_requests_is_chosen(router: Router) -> None:
    a, b, c = endpoint(), endpoint(), endpoint()
    first = [route(router, a, b, c) for _ in range(3)]
    assert {r.endpoint for r in first} == {a, b, c}
    free = first[1].endpoint
    first[1].ok()
    assert chosen(router, a, b, c) == free


def test_a_heavier_endpoint_holds_more_of_the_outstanding_requests(router: Router) -> None:
    light, heavy = endpoint(1), endpoint(3)
    assert Counter(chosen(router, light, heavy) for _ in range(40)) == {light: 10, heavy: 30}


def test_calls_one_at_a_time_are_spread_by_weight(router: Router) -> None:
    light, heavy = endpoint(1), endpoint(3)
    spread: Counter[Endpoint] = Counter()
    for _ in range(4000):
        found = route(router, light, heavy)
        spread[found.endpoint] += 1
        found.ok()
    assert 900 < spread[light] < 1100


def test_one_that_hangs_gets_no_more_than_its_equals(router: Router) -> None:
    hung, well = endpoint(), endpoint()
    waiting = 0
    for _ in range(100):
        found = route(router, hung, well)
        if found.endpoint is hung:
            waiting += 1
        else:
            found.ok()
    assert waiting == 1


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=6), st.data())
def test_the_lowest_order_that_is_usable_is_chosen_from(
    shapes: list[tuple[int, int]], data: st.DataObject
) -> None:
    router = Router(Clock())
    endpoints = [endpoint(weight, order) for weight, order in shapes]
    down = data.draw(st.sets(st.sampled_from(endpoints).map(lambda e: e.text)))
    for each in endpoints:
        if each.text in down:
            open_breaker(router, each)
    tried = data.draw(st.sets(st.sampled_from(endpoints).map(lambda e: e.text)))
    usable = [e for e in endpoints if e.text not in down | tried]
    found = router.choose(endpoints, tried)
    assert router.is_usable(endpoints, tried) == bool(usable)
    if not usable:
        assert found is None
        return
    assert found is not None
    assert found.endpoint in usable
    assert found.endpoint.order == min(e.order for e in usable)


def test_an_endpoint_that_was_tried_is_not_chosen_again(router: Router) -> None:
    a, b = endpoint(), endpoint(order=1)
    assert route(router, a, b, tried=(a.text,)).endpoint == b
    assert router.choose((a, b), (a.text, b.text)) is None
    assert router.choose((a,), (a.text,)) is None


def test_no_endpoints_are_no_route(router: Router) -> None:
    assert router.choose(()) is None
    assert router.usable_in(()) is None
    assert not router.is_usable(())


# -- the end of a route


def test_a_route_counts_once_whatever_is_said_after_the_first_verdict(router: Router) -> None:
    a, b = endpoint(), endpoint(weight=1000)
    found = route(router, a)
    for _ in range(5):
        found.failed()
    found.ok()
    found.abandoned()
    assert router.state(a) is State.CLOSED
    route(router, a)
    assert chosen(router, a, b) == b, "one is outstanding, not fewer than none"


def test_a_route_that_is_forgotten_is_abandoned(router: Router, clock: Clock) -> None:
    a = endpoint()
    open_breaker(router, a)
    clock.wait(FIRST_OPEN_SECONDS)
    with route(router, a):
        assert router.choose((a,)) is None, "it is the trial"
    assert router.state(a) is State.HALF_OPEN
    with route(router, a) as third:
        third.ok()
    assert router.state(a) is State.CLOSED


async def test_a_caller_that_goes_away_gives_the_trials_place_back(router: Router, clock: Clock) -> None:
    a = endpoint()
    open_breaker(router, a)
    clock.wait(FIRST_OPEN_SECONDS)

    async def call() -> None:
        with route(router, a):
            await asyncio.Event().wait()

    task = asyncio.get_running_loop().create_task(call())
    await asyncio.sleep(0)
    assert router.choose((a,)) is None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    route(router, a).ok()
    assert router.state(a) is State.CLOSED


@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.REJECTED, Verdict.BUSY, Verdict.ABANDONED])
def test_only_failures_open_the_breaker(router: Router, verdict: Verdict) -> None:
    a = endpoint()
    for _ in range(20):
        route(router, a).end(verdict)
    assert router.state(a) is State.CLOSED
    for _ in range(5):
        route(router, a).end(Verdict.FAILED)
    assert router.state(a) is State.OPEN


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.BUSY, Verdict.ABANDONED])
def test_a_trial_that_says_nothing_is_followed_by_another(
    router: Router, clock: Clock, verdict: Verdict
) -> None:
    a = endpoint()
    open_breaker(router, a)
    clock.wait(FIRST_OPEN_SECONDS)
    route(router, a).end(verdict)
    assert router.state(a) is State.HALF_OPEN
    route(router, a).ok()
    assert router.state(a) is State.CLOSED


def test_a_long_stream_does_not_hold_the_trials_place(router: Router, clock: Clock) -> None:
    a = endpoint()
    open_breaker(router, a)
    clock.wait(FIRST_OPEN_SECONDS)
    stream = route(router, a)
    stream.answering()
    assert router.state(a) is State.CLOSED
    for _ in range(4):
        route(router, a).failed()
    stream.failed()
    assert router.state(a) is State.OPEN, "it broke later on, and that counts"


# -- busy endpoints


def test_one_that_names_a_time_is_left_alone_for_so_long(router: Router, clock: Clock) -> None:
    a, spare = endpoint(), endpoint(order=1)
    route(router, a).busy(retry_after=7)
    assert router.choose((a,)) is None
    assert router.usable_in((a,)) == 7
    assert router.usable_in((a, spare)) == 0
    assert chosen(router, a, spare) == spare
    clock.wait(7)
    assert chosen(router, a, spare) == a


def test_nobody_is_left_alone_for_longer_than_the_bound(router: Router, clock: Clock) -> None:
    a = endpoint()
    route(router, a).busy(retry_after=999_999)
    assert router.usable_in((a,)) == MOST_COOLDOWN_SECONDS
    clock.wait(MOST_COOLDOWN_SECONDS)
    assert chosen(router, a) == a


def test_one_that_names_no_time_is_avoided_for_a_second_and_stays_usable(
    router: Router, clock: Clock
) -> None:
    a, b = endpoint(), endpoint()
    route(router, a).busy()
    for _ in range(10):
        assert chosen(router, a, b) == b
    assert chosen(router, a) == a, "there is no other"
    clock.wait(BUSY_SECONDS)
    assert chosen(router, a, b) == a


def test_when_the_soonest_comes_back_is_told(router: Router, clock: Clock) -> None:
    a, b = endpoint(), endpoint()
    open_breaker(router, a)
    route(router, b).busy(retry_after=2)
    assert router.choose((a, b)) is None
    assert router.usable_in((a, b)) == 2
    clock.wait(2)
    assert router.usable_in((a, b)) == 0
    assert set(router.troubles()) == {a.text}
    assert router.troubles()[a.text].state is State.OPEN


# -- a new catalogue


def test_what_is_known_outlives_a_new_snapshot_and_ends_with_the_endpoint(router: Router) -> None:
    a, b = endpoint(), endpoint()
    open_breaker(router, a)
    open_breaker(router, b)
    running = Endpoint(a.id, "http://127.0.0.1:10/v1", "openai", "other", 5, 2)
    router.keep([running])
    assert (router.state(running), router.state(b)) == (State.OPEN, State.CLOSED)
    assert set(router.troubles()) == {a.text}


def test_a_call_at_a_forgotten_endpoint_ends_as_any_other(router: Router) -> None:
    a, b = endpoint(), endpoint()
    late = route(router, a)
    router.keep([])
    late.failed()
    assert {chosen(router, a, b), chosen(router, a, b)} == {a, b}, "nothing is outstanding, nor less"


# -- the tries of a call


def visited(router: Router, clock: Clock, verdict: Verdict, *endpoints: Endpoint) -> list[Endpoint | float]:
    """What a call does that nobody serves: endpoints, and the longest that its pauses between them may be."""
    tries, told = Tries(router, endpoints), list[Endpoint | float]()
    while (found := tries.next_route()) is not None:
        told.append(found.endpoint)
        found.end(verdict)
        pause = tries.pause(Again.ANYWHERE, remaining=30)
        if pause is None:
            return told
        if pause:
            told.append(0.1 if pause <= 0.1 else 0.2)
            clock.wait(pause)
    return told


def test_one_endpoint_is_tried_three_times(router: Router, clock: Clock) -> None:
    a = endpoint()
    assert visited(router, clock, Verdict.FAILED, a) == [a, 0.1, a, 0.2, a]


def test_every_endpoint_is_tried_at_once_and_then_two_more_times(router: Router, clock: Clock) -> None:
    a, b, c = endpoint(), endpoint(order=1), endpoint(order=2)
    assert visited(router, clock, Verdict.FAILED, a, b, c) == [a, b, c, 0.1, a, 0.2, a]


def test_a_call_whose_endpoint_opened_meanwhile_ends(router: Router, clock: Clock) -> None:
    a = endpoint()
    for _ in range(4):
        route(router, a).failed()
    assert visited(router, clock, Verdict.FAILED, a) == [a]


def test_a_call_waits_for_an_endpoint_that_asks_for_a_second_and_not_for_two(
    router: Router, clock: Clock
) -> None:
    a = endpoint()
    tries = Tries(router, (a,))
    first = tries.next_route()
    assert first is not None
    first.busy(retry_after=1)
    assert tries.pause(Again.ANYWHERE, remaining=30) == 1
    clock.wait(1)
    second = tries.next_route()
    assert second is not None
    second.busy(retry_after=2)
    assert tries.pause(Again.ANYWHERE, remaining=30) is None
    assert tries.usable_in() == 2


# -- fallbacks


def offer(*endpoints: Endpoint, fallback: Offer | None = None, status: str = "active") -> Offer:
    return Offer(
        id=uuid.uuid4(), name="chat", version="1.0", base_url="http://127.0.0.1:9/v1", model="m", status=status,
        region="", clearance=0, default_max_tokens=1, deadline_seconds=30, stream_deadline_seconds=30,
        connect_seconds=5, first_byte_seconds=None, idle_seconds=5, least_bytes_per_second=None,
        tokenizer="", on_client_gone="cancel", local=False, testing=False,
        fallback_id=fallback.id if fallback else None,
        endpoints=endpoints, prices=(),
    )  # fmt: skip


def turn(first: Offer, *others: Offer) -> tuple[Endpoint, ...]:
    return in_turn([first, *fallbacks_of(first, {each.id: each for each in (first, *others)})])


def chain(first: Offer, *others: Offer) -> list[tuple[uuid.UUID, int]]:
    return [(e.id, e.order) for e in turn(first, *others)]


def test_endpoints_of_fallbacks_follow_all_of_the_service_itself(router: Router) -> None:
    last = offer(z := endpoint())
    second = offer(x := endpoint(), y := endpoint(order=3), fallback=last)
    first = offer(a := endpoint(), b := endpoint(order=7), fallback=second)
    found = turn(first, second, last)
    assert [e.id for e in found] == [a.id, b.id, x.id, y.id, z.id]
    tried: list[str] = []
    for each in (a, b, x, y, z):
        assert route(router, *reversed(found), tried=tuple(tried)).endpoint.id == each.id
        tried.append(each.text)


def test_a_service_without_a_fallback_is_its_own_endpoints() -> None:
    only = offer(endpoint(order=2), endpoint())
    assert turn(only) == only.endpoints


def test_a_fallback_that_is_not_served_is_passed_over() -> None:
    last = offer(z := endpoint())
    suspended = offer(endpoint(), fallback=last, status="suspended")
    first = offer(a := endpoint(), fallback=suspended)
    assert [id_ for id_, _ in chain(first, suspended, last)] == [a.id, z.id]


def test_a_fallback_that_is_gone_or_comes_round_ends_the_chain() -> None:
    lost = offer(a := endpoint(), fallback=offer(endpoint()))
    assert chain(lost) == [(a.id, 0)]
    back = offer(b := endpoint())
    forth = offer(a, fallback=back)
    object.__setattr__(back, "fallback_id", forth.id)
    assert [id_ for id_, _ in chain(forth, back)] == [a.id, b.id]
