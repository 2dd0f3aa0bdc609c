"""When a call is tried again: only where the upstream cannot have done its work, or said to come later."""

import random
from dataclasses import dataclass
from enum import Enum

#: Pauses of one call at most. With one endpoint that makes three tries.
MOST_PAUSES = 2
FIRST_PAUSE_SECONDS = 0.1
#: What an upstream asks for is waited for up to here; beyond it the caller is told to come back.
MOST_PAUSE_SECONDS = 1.0


class Verdict(Enum):
    """What a call says of its endpoint."""

    OK = "ok"
    FAILED = "failed"
    #: The caller's mistake: it says nothing of the endpoint.
    REJECTED = "rejected"
    BUSY = "busy"
    #: The caller went away, or forgot to say.
    ABANDONED = "abandoned"


class Again(Enum):
    """Where a call that brought nothing may be tried again."""

    NOWHERE = "nowhere"
    #: The same endpoint would say the same.
    ELSEWHERE = "elsewhere"
    ANYWHERE = "anywhere"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the end of a try means for its endpoint and for the call."""

    verdict: Verdict
    again: Again


#: No connection: nothing was sent.
NOT_CONNECTED = Judgement(Verdict.FAILED, Again.ANYWHERE)
#: Sent, and then cut off, broken, no HTTP, or slower than a deadline allows.
BROKEN = Judgement(Verdict.FAILED, Again.NOWHERE)

_REJECTED = Judgement(Verdict.REJECTED, Again.NOWHERE)
_MISPLACED = Judgement(Verdict.REJECTED, Again.ELSEWHERE)
_REFUSED = Judgement(Verdict.FAILED, Again.ELSEWHERE)
_BUSY = Judgement(Verdict.BUSY, Again.ANYWHERE)
_UNAVAILABLE = Judgement(Verdict.FAILED, Again.ANYWHERE)

_BY_STATUS = {
    401: _REFUSED,
    402: _REFUSED,
    403: _MISPLACED,
    404: _MISPLACED,
    405: _MISPLACED,
    429: _BUSY,
    529: _BUSY,
}


def retry_after_of(header: bytes) -> float | None:
    """Seconds of a ``Retry-After``; None where there is none that could be used (a date is not read)."""
    text = header.strip()
    return float(text) if text.isdigit() and len(text) <= 6 else None


def judge(status: int, *, retry_after: float | None = None) -> Judgement:
    """What an upstream's status other than 200 means. ``retry_after``: seconds, where it said how long.

    ===========================  ========  =========  ===========================================================
    the try                      verdict   again      because
    ===========================  ========  =========  ===========================================================
    no connection                failed    anywhere   nothing was sent (``NOT_CONNECTED``)
    cut, broken, too slow        failed    nowhere    the work may have been done (``BROKEN``)
    429, 529; 503 + Retry-After  busy      anywhere   "later": a sound endpoint (529 is Anthropic's "overloaded")
    503 without                  failed    anywhere   contract: also what a proxy says of a dead server
    other 5xx, 2xx but 200       failed    nowhere    the work may have been done
    401, 402, 3xx                failed    elsewhere  our credential, account or address: the publisher's mistake
    403, 404, 405                rejected  elsewhere  perhaps the publisher's mistake, perhaps a caller's
    400, 413, 422, other 4xx     rejected  nowhere    the caller's mistake
    ===========================  ========  =========  ===========================================================

    Whatever a caller could bring about by the content or the path of a request must not count as a failure: five such
    requests would shut the endpoint for all others. Hence 403 (some providers' answer to a flagged prompt) and 404 (a
    path that it does not serve) are not counted.
    """
    found = _BY_STATUS.get(status)
    if found is not None:
        return found
    if status == 503:
        return _UNAVAILABLE if retry_after is None else _BUSY
    if 400 <= status < 500:
        return _REJECTED
    return _REFUSED if 300 <= status < 400 else BROKEN


def pause_before_next(
    again: Again, *, pauses: int, untried: bool, back_in: float | None, remaining: float
) -> float | None:
    """Seconds until the next try: 0 at once, None never.

    ``pauses``: how many this call has made. ``untried``: another endpoint is usable that this call has not tried.
    ``back_in``: seconds until the first of all endpoints is usable, None where none will be. ``remaining``: seconds of
    the call's total deadline.

    ========================================================  ====================================================
    again, and                                                pause
    ========================================================  ====================================================
    nowhere                                                   never
    nothing remains                                           never
    elsewhere or anywhere, untried, before the first pause    at once
    anywhere, fewer than two pauses made                      100 ms · 2ⁿ, half of it at random; or ``back_in``
                                                              where that is longer and no more than a second
    otherwise                                                 never
    ========================================================  ====================================================

    So every endpoint is tried once at most without a pause, then there are two tries more: with one endpoint the
    contract's three, with ten a dozen and not thirty.
    """
    if again is Again.NOWHERE or remaining <= 0:
        return None
    if untried and pauses == 0:
        return 0.0
    if again is Again.ELSEWHERE or pauses >= MOST_PAUSES or back_in is None or back_in > MOST_PAUSE_SECONDS:
        return None
    jitter = 0.5 + random.random() / 2  # noqa: S311 - jitter, no secret  # nosec B311
    pause = max(FIRST_PAUSE_SECONDS * 2**pauses * jitter, back_in)
    return pause if pause < remaining else None
