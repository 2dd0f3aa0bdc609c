"""Letting calls in without asking anybody: what ``admit.lua`` does, out of a gateway's share, while Valkey is away.

Only what is counted by consumer and service can be had in shares: requests a second and tokens a month. A call with any
further limit that refuses (of its key, of money, of calls that run) is refused rather than overspent.
"""

import math
from dataclasses import dataclass
from time import monotonic

from common.ids import milliseconds_of
from metering import shards
from quotas.admission import Ask, Lease
from quotas.errors import Away, QuotaExceeded, RateLimited, TierForbids
from quotas.limits import LimitSet
from quotas.refusals import RETRY_SECONDS, Rate, reset_at
from quotas.shares import Share, Shares


@dataclass(frozen=True, slots=True)
class Taken:
    """What a call has out of a share; ``share`` is None where tokens are unlimited."""

    share: Share | None
    tokens: int

    @property
    def share_id(self) -> str:
        return "" if self.share is None else str(self.share.id)

    def give_back(self, tokens: int | None = None) -> None:
        """So many of them, or all."""
        if self.share is not None:
            self.share.out -= self.tokens if tokens is None else tokens

    def lent(self) -> None:
        """Valkey holds them for the call itself now."""
        if self.share is not None:
            self.share.lent(self.tokens)


class LocalAdmission:
    """Admission by one gateway alone."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._buckets: dict[str, Bucket] = {}
        self._alone_since = monotonic()

    def not_alone(self) -> None:
        """Limits are counted in Valkey at this moment. Whatever is let in here later flows in from now on."""
        self._alone_since = monotonic()
        self._buckets.clear()

    def admit(self, ask: Ask) -> tuple[Lease, Taken]:
        """Let a call in, or raise a refusal of ``quotas.errors``; a refusal consumes nothing."""
        limits = ask.limits
        _refuse_forbidden(ask)
        if limits.further or ask.ready is None:
            raise Away("The call has limits that cannot be kept at the moment", retry_after=RETRY_SECONDS)
        bucket = self._bucket(ask.ready.names.quota, limits)
        if bucket is not None:
            bucket.fill()
            if bucket.level < 1:
                raise RateLimited(
                    retry_after=bucket.seconds_to_one,
                    limit=limits.requests_per_second,
                    remaining=0,
                    scope="service",
                )
        share, cap = self._share(ask)
        taken = Taken(share, ask.prompt_bound + ask.choices * cap)
        if share is not None:
            share.out += taken.tokens
        return _lease_of(ask, cap, None if bucket is None else bucket.take()), taken

    def _bucket(self, name: str, limits: LimitSet) -> "Bucket | None":
        if limits.requests_per_second is None:
            return None
        rate = limits.requests_per_second / self._shares.gateways
        if rate < 1:
            raise Away("The share of the request rate is too small", retry_after=RETRY_SECONDS)
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[name] = Bucket(rate, self._alone_since)
        return bucket

    def _share(self, ask: Ask) -> tuple[Share | None, int]:
        """The share that the call fits into, and the cap that it gets."""
        if ask.limits.tokens_per_month is None or ask.ready is None:
            return None, ask.output_cap
        share = self._shares.find(ask.ready, milliseconds_of(ask.request_id))
        if share is None:
            raise Away(retry_after=RETRY_SECONDS)
        cap = ask.output_cap
        if not ask.cap_named:
            cap = max(1, min(cap, (share.left - ask.prompt_bound) // ask.choices))
        if ask.prompt_bound + ask.choices * cap > share.left:
            raise Away("The share of the quota is used up", retry_after=RETRY_SECONDS)
        return share, cap


class Bucket:
    """A share of a request rate: empty at first, since Valkey's own bucket was given out before."""

    __slots__ = ("at", "level", "rate")

    def __init__(self, rate: float, since: float) -> None:
        self.rate = rate
        self.level = 0.0
        self.at = since

    def fill(self) -> None:
        now = monotonic()
        self.level = min(self.rate, self.level + (now - self.at) * self.rate)
        self.at = now

    @property
    def seconds_to_one(self) -> int:
        return max(1, math.ceil((1 - self.level) / self.rate))

    def take(self) -> Rate:
        self.level -= 1
        return Rate(int(self.rate), int(self.level), math.ceil((self.rate - self.level) / self.rate * 1000))


def _refuse_forbidden(ask: Ask) -> None:
    """``0`` forbids, whoever decides."""
    limits = ask.limits
    if limits.requests_per_second == 0:
        raise TierForbids()
    if limits.tokens_per_month == 0:
        ends = reset_at(milliseconds_of(ask.request_id), daily=False)
        raise QuotaExceeded(limit=0, used=0, scope="service", reset_at=ends)


def _lease_of(ask: Ask, cap: int, rate: Rate | None) -> Lease:
    return Lease(
        request_id=ask.request_id,
        consumer_id=ask.consumer_id,
        service_id=ask.service_id,
        shard=shards.shard_of(ask.consumer_id),
        limits=ask.limits,
        prompt_bound=ask.prompt_bound,
        output_cap=cap,
        rate=rate,
    )
