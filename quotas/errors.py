"""Refusals of admission. Nothing was consumed by any of them."""

from common.errors import Problem


class RateLimited(Problem):
    code, status, title = "rate_limited", 429, "Too many requests"


class QuotaReserved(Problem):
    code, status, title = "quota_reserved", 429, "The rest of the quota is held by running requests"


class QuotaExceeded(Problem):
    code, status, title = "quota_exceeded", 402, "The token quota of this month is spent"


class TierForbids(Problem):
    code, status, title = "tier_forbids", 403, "The tier allows no requests"
