"""When a call is tried again, and what a status says of the endpoint."""

import pytest

from consumption.retries import Again, Judgement, Verdict, judge, pause_before_next, retry_after_of

A, E, N = Again.ANYWHERE, Again.ELSEWHERE, Again.NOWHERE


@pytest.mark.parametrize(
    ("status", "retry_after", "verdict", "again"),
    [
        (429, None, Verdict.BUSY, A),
        (429, 7.0, Verdict.BUSY, A),
        (529, None, Verdict.BUSY, A),
        (503, 7.0, Verdict.BUSY, A),
        (503, None, Verdict.FAILED, A),
        (500, None, Verdict.FAILED, N),
        (502, 7.0, Verdict.FAILED, N),
        (504, None, Verdict.FAILED, N),
        (201, None, Verdict.FAILED, N),
        (302, None, Verdict.FAILED, E),
        (401, None, Verdict.FAILED, E),
        (402, None, Verdict.FAILED, E),
        (403, None, Verdict.REJECTED, E),
        (404, None, Verdict.REJECTED, E),
        (405, None, Verdict.REJECTED, E),
        (400, None, Verdict.REJECTED, N),
        (413, None, Verdict.REJECTED, N),
        (418, None, Verdict.REJECTED, N),
        (422, None, Verdict.REJECTED, N),
        (999, None, Verdict.FAILED, N),
    ],
)
def test_what_a_status_means(status: int, retry_after: float | None, verdict: Verdict, again: Again) -> None:
    assert judge(status, retry_after=retry_after) == Judgement(verdict, again)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"7", 7.0), (b" 0 ", 0.0), (b"", None), (b"-1", None), (b"1.5", None), (b"inf", None), (b"nan", None),
        (b"9" * 400, None), (b"Wed, 21 Oct 2026 07:28:00 GMT", None), ("٣".encode(), None),
    ],
)  # fmt: skip
def test_only_plain_seconds_are_taken_from_retry_after(header: bytes, seconds: float | None) -> None:
    assert retry_after_of(header) == seconds


def pause(
    again: Again,
    *,
    pauses: int = 0,
    untried: bool = False,
    back_in: float | None = 0.0,
    remaining: float = 30.0,
) -> float | None:
    return pause_before_next(again, pauses=pauses, untried=untried, back_in=back_in, remaining=remaining)


@pytest.mark.parametrize(("pauses", "longest"), [(0, 0.1), (1, 0.2)])
def test_the_same_endpoint_is_tried_again_after_a_pause_that_doubles(pauses: int, longest: float) -> None:
    found = {pause(A, pauses=pauses) for _ in range(50)}
    assert len(found) > 1, "there is jitter"
    assert all(seconds is not None and longest / 2 <= seconds <= longest for seconds in found)


def test_after_two_pauses_there_is_no_other_try() -> None:
    assert pause(A, pauses=2) is None


def test_an_endpoint_that_was_not_tried_is_tried_at_once_until_the_first_pause() -> None:
    assert pause(A, untried=True) == 0.0
    assert pause(E, untried=True) == 0.0
    assert pause(E, untried=False) is None
    later = pause(A, untried=True, pauses=1)
    assert later is not None
    assert later > 0
    assert pause(E, untried=True, pauses=1) is None


@pytest.mark.parametrize("untried", [True, False])
def test_work_that_was_maybe_done_is_never_repeated(untried: bool) -> None:
    assert pause(N, untried=untried) is None


def test_the_deadline_ends_all_tries() -> None:
    assert pause(A, untried=True, remaining=0.0) is None
    assert pause(A, remaining=0.05) is None
    assert pause(A, remaining=0.11) is not None


def test_an_upstream_that_says_how_long_is_waited_for_up_to_a_second() -> None:
    assert pause(A, back_in=1.0) == 1.0
    assert pause(A, back_in=1.01) is None
    assert pause(A, back_in=1.0, remaining=0.9) is None
    assert pause(A, back_in=None) is None
