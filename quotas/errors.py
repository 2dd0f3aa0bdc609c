"""Refusals of admission. Nothing was consumed by any of them.

``extra`` says which limit: ``limit`` and what is counted against it, and ``scope``: ``service`` (all calls of the
consumer at the service), ``key`` or ``consumer``. Amounts of money are texts.
"""

from typing import TYPE_CHECKING

from common.errors import Problem, Unavailable

if TYPE_CHECKING:
    from quotas.refusals import Rate


class Away(Unavailable):
    """Valkey did not answer, so nobody knows what the limits leave."""


class LimitReached(Problem):
    """Base of them. ``rate``: the tightest bucket of requests, untouched by the call; None where there is none."""

    rate: "Rate | None" = None


class RateLimited(LimitReached):
    code, status, title = "rate_limited", 429, "Too many requests"


class TooManyRunning(LimitReached):
    code, status, title = "concurrency_limited", 429, "Too many requests are running"


class TokensLimited(LimitReached):
    """Without ``retry_after``: the call alone may use more than a minute allows."""

    code, status, title = "token_rate_limited", 429, "Too many tokens in a minute"


class QuotaReserved(LimitReached):
    code, status, title = "quota_reserved", 429, "The rest of the quota is held by running requests"


class QuotaExceeded(LimitReached):
    code, status, title = "quota_exceeded", 402, "The token quota of this month is spent"


class BudgetReserved(LimitReached):
    code, status, title = "budget_reserved", 429, "The rest of the budget is held by running requests"


class BudgetExceeded(LimitReached):
    code, status, title = "budget_exceeded", 402, "The budget of this period is spent"


class TierForbids(LimitReached):
    code, status, title = "tier_forbids", 403, "The tier allows no requests"


class KeyForbids(LimitReached):
    code, status, title = "key_forbids", 403, "The key allows no requests"


RATE_REFUSALS = (RateLimited, TooManyRunning, TokensLimited)
QUOTA_REFUSALS = (QuotaExceeded, QuotaReserved, BudgetExceeded, BudgetReserved)
