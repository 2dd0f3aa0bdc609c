"""What an answer of ``admit.lua`` that lets nothing in means to the caller: which limit, and when to come back."""

import datetime as dt
from typing import Any

import msgspec

from common import clock
from common.errors import Problem, Unavailable
from quotas import errors
from quotas.limits import MONEY_A_DAY, TOKENS, Limit, LimitSet

#: For whoever has to wait for something whose end nobody knows: that running calls end, that a shard is opened.
RETRY_SECONDS = 1


class Rate(msgspec.Struct, frozen=True, gc=False):
    """The tightest bucket of requests after a call: its size, what is left in it, and ms until it is full again."""

    limit: int
    left: int
    full_in_ms: int


def refusal_of(answer: list[Any], limits: LimitSet, *, at_ms: int) -> Problem:
    """The refusal. ``at_ms``: the moment inside the call's id."""
    if len(answer) == 1:
        return Unavailable(retry_after=RETRY_SECONDS)
    what, place, first, second, left, full_in, size = answer
    limit = None if place == 0 else limits.further[place - 1]
    problem = _of_place(what.decode(), limit, limits, first, second, at_ms)
    problem.rate = None if size < 0 else Rate(size, left, full_in)
    return problem


def _of_place(
    what: str, limit: Limit | None, limits: LimitSet, first: int, second: int, at_ms: int
) -> errors.LimitReached:
    if what == "forbidden":
        return errors.TierForbids() if limit is None or limit.scope == "service" else errors.KeyForbids()
    if what == "rate":
        size = limits.requests_per_second if limit is None else limit.value
        return errors.RateLimited(retry_after=first, limit=size, remaining=0, scope=_scope(limit))
    if what == "running" and limit is not None:
        return errors.TooManyRunning(
            retry_after=RETRY_SECONDS, limit=limit.value, running=first, scope=limit.scope
        )
    if what == "tokens" and limit is not None:
        return errors.TokensLimited(retry_after=first or None, limit=limit.value, scope=limit.scope)
    if limit is None or limit.kind == TOKENS:
        size = limits.tokens_per_month if limit is None else limit.value
        told: dict[str, Any] = {"limit": size, "used": first, "scope": _scope(limit)}
        if what == "spent":
            return errors.QuotaExceeded(**told, reset_at=reset_at(at_ms, daily=False))
        return errors.QuotaReserved(retry_after=RETRY_SECONDS, **told, reserved=second)
    return _of_budget(what, limit, first, second, at_ms)


def _of_budget(what: str, limit: Limit, used: int, reserved: int, at_ms: int) -> errors.LimitReached:
    told: dict[str, Any] = {
        "limit": limit.told,
        "used": limit.tell(used),
        "currency": limit.currency,
        "period": "day" if limit.kind == MONEY_A_DAY else "month",
        "scope": limit.scope,
    }
    if what == "spent":
        return errors.BudgetExceeded(**told, reset_at=reset_at(at_ms, daily=limit.kind == MONEY_A_DAY))
    return errors.BudgetReserved(retry_after=RETRY_SECONDS, **told, reserved=limit.tell(reserved))


def _scope(limit: Limit | None) -> str:
    return "service" if limit is None else limit.scope


def reset_at(at_ms: int, *, daily: bool) -> str:
    """When the UTC day or month of a moment ends."""
    moment = dt.datetime.fromtimestamp(at_ms / 1000, clock.UTC)
    if daily:
        end = clock.day_start(moment.date() + dt.timedelta(days=1))
    else:
        end = clock.month_start(clock.next_month(clock.month_of(moment)))
    return f"{end:%Y-%m-%dT%H:%M:%SZ}"
