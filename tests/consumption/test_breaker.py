"""The breaker of one endpoint, on a clock of the test's own."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from consumption.breaker import (
    FIRST_OPEN_SECONDS,
    JITTER,
    MOST_OPEN_SECONDS,
    STEADY_SECONDS,
    TRIAL_SECONDS,
    Breaker,
    State,
)
from tests.harness.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock)


def trip(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.failed(breaker.begin())
    assert breaker.state is State.OPEN


def open_seconds(breaker: Breaker) -> float:
    assert not breaker.allows()
    return breaker.allows_in()


def test_the_fifth_failure_within_ten_seconds_opens_it(breaker: Breaker, clock: Clock) -> None:
    for _ in range(4):
        breaker.failed(breaker.begin())
        clock.wait(2.5)
    assert (breaker.state, breaker.allows(), breaker.allows_in()) == (State.CLOSED, True, 0.0)
    breaker.failed(breaker.begin())
    assert (breaker.state, breaker.allows()) == (State.OPEN, False)


def test_five_failures_over_more_than_ten_seconds_do_not(breaker: Breaker, clock: Clock) -> None:
    for _ in range(20):
        breaker.failed(breaker.begin())
        clock.wait(2.501)
    assert breaker.state is State.CLOSED


def test_successes_between_them_excuse_no_failure(breaker: Breaker) -> None:
    for _ in range(4):
        breaker.failed(breaker.begin())
        breaker.succeeded(breaker.begin())
    breaker.failed(breaker.begin())
    assert breaker.state is State.OPEN


def test_calls_that_were_abandoned_do_not_count(breaker: Breaker) -> None:
    for _ in range(20):
        breaker.abandoned(breaker.begin())
    for _ in range(4):
        breaker.failed(breaker.begin())
    assert breaker.state is State.CLOSED


def test_after_its_time_one_call_is_let_through_and_its_success_closes_it(
    breaker: Breaker, clock: Clock
) -> None:
    trip(breaker)
    seconds = open_seconds(breaker)
    assert FIRST_OPEN_SECONDS * (1 - JITTER) <= seconds <= FIRST_OPEN_SECONDS
    clock.wait(seconds - 0.001)
    assert not breaker.allows()
    clock.wait(0.002)
    assert (breaker.state, breaker.allows(), breaker.allows_in()) == (State.HALF_OPEN, True, 0.0)
    trial = breaker.begin()
    assert (breaker.state, breaker.allows(), breaker.allows_in()) == (State.HALF_OPEN, False, TRIAL_SECONDS)
    breaker.succeeded(trial)
    assert (breaker.state, breaker.allows()) == (State.CLOSED, True)
    for _ in range(4):
        breaker.failed(breaker.begin())
    assert breaker.state is State.CLOSED, "the failures of before are forgotten"


def test_the_failure_of_a_trial_opens_it_for_twice_as_long_up_to_a_minute(
    breaker: Breaker, clock: Clock
) -> None:
    trip(breaker)
    for longest in (5, 10, 20, 40, 60, 60, 60):
        seconds = open_seconds(breaker)
        assert longest * (1 - JITTER) <= seconds <= longest <= MOST_OPEN_SECONDS
        clock.wait(seconds + 0.001)
        breaker.failed(breaker.begin())
        assert breaker.state is State.OPEN


@pytest.mark.parametrize(("well_for", "longest"), [(STEADY_SECONDS - 1, 10), (STEADY_SECONDS + 1, 5)])
def test_only_an_endpoint_that_was_well_for_a_while_starts_anew(
    breaker: Breaker, clock: Clock, well_for: float, longest: float
) -> None:
    trip(breaker)
    clock.wait(FIRST_OPEN_SECONDS)
    breaker.succeeded(breaker.begin())
    clock.wait(well_for)
    trip(breaker)
    assert longest * (1 - JITTER) <= open_seconds(breaker) <= longest


def test_a_trial_that_ends_without_a_verdict_gives_its_place_back(breaker: Breaker, clock: Clock) -> None:
    trip(breaker)
    clock.wait(FIRST_OPEN_SECONDS)
    for _ in range(3):
        trial = breaker.begin()
        assert not breaker.allows()
        breaker.abandoned(trial)
        assert (breaker.state, breaker.allows()) == (State.HALF_OPEN, True)
    breaker.succeeded(breaker.begin())
    assert breaker.state is State.CLOSED


def test_calls_from_before_it_opened_are_not_heard(breaker: Breaker, clock: Clock) -> None:
    early = [breaker.begin() for _ in range(20)]
    trip(breaker)
    seconds = open_seconds(breaker)
    breaker.failed(early.pop())
    breaker.succeeded(early.pop())
    assert open_seconds(breaker) == seconds, "neither longer nor closed"
    clock.wait(FIRST_OPEN_SECONDS)
    trial = breaker.begin()
    breaker.abandoned(early.pop())
    assert not breaker.allows(), "the place is the trial's"
    breaker.failed(early.pop())
    breaker.succeeded(early.pop())
    assert not breaker.allows(), "nor does the trial end by them"
    breaker.succeeded(trial)
    for late in early:
        breaker.failed(late)
    assert breaker.state is State.CLOSED, "what hung in the outage does not bring it back"


def test_a_call_that_goes_on_after_its_success_may_still_fail(breaker: Breaker, clock: Clock) -> None:
    trip(breaker)
    clock.wait(FIRST_OPEN_SECONDS)
    trial = breaker.succeeded(breaker.begin())
    for _ in range(4):
        breaker.failed(breaker.begin())
    breaker.failed(trial)
    assert breaker.state is State.OPEN


class AnyBreaker(RuleBasedStateMachine):
    """Calls of every kind in any order against the sentence of the contract."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(self.clock)
        self.failures: list[float] = []
        self.since_closed = 0
        self.trial: object = None

    @precondition(lambda self: self.breaker.allows())
    @rule(target=calls)
    def begin(self) -> tuple[int, int]:
        half_open = self.breaker.state is State.HALF_OPEN
        call = (self.breaker.begin(), self.since_closed)
        if half_open:
            assert self.trial is None, "one trial at a time"
            self.trial = call
        return call

    @rule(call=consumes(calls))
    def succeed(self, call: tuple[int, int]) -> None:
        self.breaker.succeeded(call[0])
        if call is self.trial:
            self.trial, self.failures = None, []
            self.since_closed += 1
            assert self.breaker.state is State.CLOSED

    @rule(call=consumes(calls))
    def fail(self, call: tuple[int, int]) -> None:
        before = self.breaker.state
        self.breaker.failed(call[0])
        if call is self.trial:
            self.trial = None
            assert self.breaker.state is State.OPEN
        elif before is State.CLOSED and call[1] == self.since_closed:
            self.failures = [at for at in self.failures if self.clock.now - at <= 10.0] + [self.clock.now]
            assert (self.breaker.state is State.OPEN) == (len(self.failures) >= 5)
        else:
            assert self.breaker.state is before, "not its business any more"

    @rule(call=consumes(calls))
    def abandon(self, call: tuple[int, int]) -> None:
        before = self.breaker.state
        self.breaker.abandoned(call[0])
        assert self.breaker.state is before
        if call is self.trial:
            self.trial = None

    @rule(seconds=st.sampled_from([0.5, 2.0, 2.5, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.wait(seconds)

    @invariant()
    def half_open_lets_one_through(self) -> None:
        state = self.breaker.state
        assert self.breaker.allows() == (
            state is State.CLOSED or (state is State.HALF_OPEN and self.trial is None)
        )
        assert self.breaker.allows() == (self.breaker.allows_in() == 0)


TestAnyBreaker = AnyBreaker.TestCase
TestAnyBreaker.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
