"""The circuit breaker of one endpoint: what keeps failing is left alone for a while, then tried with one call.

Five failures within ten seconds open it (the contract). They need not follow each other: an endpoint that fails every
other call must not look well for the half that it serves. While open, nothing goes there; then it is half-open, and
one call at a time is let through as a trial. The trial's success closes it, its failure opens it again.

Plain state for one event loop: no timer, no lock, and the clock is read only where the breaker is not closed.
"""

import random
from collections import deque
from collections.abc import Callable
from enum import IntEnum

MOST_FAILURES = 5
WINDOW_SECONDS = 10.0
#: A dead endpoint costs one call in so many seconds, and one that only restarted is back almost at once.
FIRST_OPEN_SECONDS = 5.0
#: Doubled with every trip in a row, up to this: whatever has healed is found out within a minute.
MOST_OPEN_SECONDS = 60.0
#: Shortened by up to so much of itself at random, or all gateways would come back in the same moment.
JITTER = 0.2
#: Closed for so long, it has healed: the next trip is a first one.
STEADY_SECONDS = 60.0
#: When to ask again while a trial is out: nobody knows when it ends.
TRIAL_SECONDS = 1.0


class State(IntEnum):
    """The numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """``begin`` a call where it ``allows`` one; end it with ``succeeded``, ``failed`` or ``abandoned``.

    ``begin`` gives the period that the call belongs to. Every opening, closing and trial begins another, and what is
    told of an earlier one is not heard: a call that began before the breaker opened says nothing of the endpoint now.
    ``clock`` is monotonic, in seconds.
    """

    __slots__ = ("_clock", "_closed_at", "_failures", "_open_until", "_period", "_trial", "_trips")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=MOST_FAILURES)
        self._open_until: float | None = None
        self._trial = False
        self._trips = 0
        self._closed_at = float("-inf")
        self._period = 0

    @property
    def state(self) -> State:
        """Half-open from the moment on that a trial would be let through."""
        if self._open_until is None:
            return State.CLOSED
        return State.OPEN if self._clock() < self._open_until else State.HALF_OPEN

    def allows(self) -> bool:
        """Whether a call may begin."""
        return self._open_until is None or (not self._trial and self._clock() >= self._open_until)

    def allows_in(self) -> float:
        """Seconds until a call may begin; 0 where it may now."""
        if self._open_until is None:
            return 0.0
        return TRIAL_SECONDS if self._trial else max(0.0, self._open_until - self._clock())

    def begin(self) -> int:
        """A call that is allowed begins; hand its period back at its end."""
        if self._open_until is not None:
            self._trial = True
            self._period += 1
        return self._period

    def succeeded(self, period: int) -> int:
        """The endpoint serves. A call that goes on after that belongs to the period returned."""
        if self._trial and period == self._period:
            self._close()
            return self._period
        return period

    def failed(self, period: int) -> None:
        """The endpoint has failed the call."""
        if period != self._period:
            return
        now = self._clock()
        self._failures.append(now)
        if self._trial or (
            len(self._failures) == MOST_FAILURES and now - self._failures[0] <= WINDOW_SECONDS
        ):
            self._open(now)

    def abandoned(self, period: int) -> None:
        """The call has ended and says nothing of the endpoint. The place of a trial is free again."""
        if period == self._period:
            self._trial = False

    def _open(self, now: float) -> None:
        if self._open_until is None and now - self._closed_at > STEADY_SECONDS:
            self._trips = 0
        longest = min(MOST_OPEN_SECONDS, FIRST_OPEN_SECONDS * 2.0 ** min(self._trips, 10))
        self._open_until = now + longest * (1 - JITTER * random.random())  # noqa: S311 - jitter  # nosec B311
        self._trips += 1
        self._begin_period()

    def _close(self) -> None:
        self._open_until = None
        self._closed_at = self._clock()
        self._begin_period()

    def _begin_period(self) -> None:
        self._failures.clear()
        self._trial = False
        self._period += 1
