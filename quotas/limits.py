"""Which limits hold for the calls of one key at one service, as the scripts take them.

The tier's rate and monthly tokens are always counted, by consumer and service; whatever is set besides is a further
limit. Further limits are counted in three hashes of the consumer: ``now`` (calls that run, buckets of requests and of
tokens), the month's and the day's ``spent`` (tokens and money). A scope says who shares a limit: all calls of the
consumer at a service, all calls with a key and with what rotation made of it, or all calls of the consumer.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from accounts.budgets import Budget
from catalog.limits import Limits
from catalog.pricing import GROUPS, Price
from catalog.snapshot import Offer
from common import money
from keys.grants import Grant, KeyLimits
from metering import shards

Scope = Literal["service", "key", "consumer"]
#: As ``admit.lua`` knows them, in the order in which it wants them: the hash ``now``, the month's, the day's.
CONCURRENT, REQUESTS, TOKENS_A_MINUTE, TOKENS, MONEY_A_MONTH, MONEY_A_DAY = KINDS = (
    "c",
    "b",
    "p",
    "t",
    "m",
    "d",
)
_IN_MONTH = (TOKENS, MONEY_A_MONTH)
_SPENT = (*_IN_MONTH, MONEY_A_DAY)


@dataclass(frozen=True, slots=True)
class Limit:
    """One further limit. ``field`` is where it is counted; ``value``: calls, tokens, or nano-units of ``currency``."""

    kind: str
    scope: Scope
    field: str
    value: int
    currency: str = ""
    #: It refuses nothing, so it is no limit for the script.
    soft: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """All that is kept of it: calls that run; a bucket's level, and since when; used and reserved."""
        if self.kind == CONCURRENT:
            return (self.field,)
        if self.kind in (REQUESTS, TOKENS_A_MINUTE):
            return self.field, f"{self.field}:at"
        return self.field, shards.reserved_field(self.field)

    @property
    def name(self) -> str:
        """What callers are told."""
        return _NAMES[self.kind]

    @property
    def is_money(self) -> bool:
        return bool(self.currency)

    @property
    def told(self) -> int | str:
        """The limit as callers know it: money as a plain decimal number."""
        return self.tell(self.value)

    def tell(self, amount: int) -> int | str:
        """An amount that is counted against it, as callers know it."""
        return money.plain(Decimal(amount) / money.NANO) if self.is_money else amount


_NAMES = {
    CONCURRENT: "concurrent_requests",
    REQUESTS: "requests_per_second",
    TOKENS_A_MINUTE: "tokens_per_minute",
    TOKENS: "tokens_per_month",
    MONEY_A_MONTH: "budget_per_month",
    MONEY_A_DAY: "budget_per_day",
}


@dataclass(frozen=True, slots=True, eq=False)
class LimitSet:
    """All limits of a call: one object for the same limits, compared by identity. ``0`` forbids, ``None`` is unlimited.

    ``further``: in the order of ``KINDS``. ``nano``: upper bounds of a call's cost, in nano-units: of any call, of
    each prompt token, of each token of output; zeros where nothing limits money.
    """

    requests_per_second: int | None = None
    tokens_per_month: int | None = None
    further: tuple[Limit, ...] = ()
    nano: tuple[int, int, int] = (0, 0, 0)
    #: What the script is told of the further limits, but for the names of the hashes and the day's end.
    fields: tuple[str | int, ...] = field(init=False)
    counts: tuple[int, int, int, int] = field(init=False)

    def __post_init__(self) -> None:
        now, month, day = self._by_hash()
        in_now = [name for limit in now for name in limit.fields]
        written = [each for name in in_now for each in (name, 0)]
        pairs = [name for limit in (*month, *day) for name in reversed(limit.fields)]
        object.__setattr__(self, "counts", (len(now), len(in_now), len(month), len(day)))
        object.__setattr__(self, "fields", (*in_now, *written, *pairs))

    def _by_hash(self) -> tuple[list[Limit], list[Limit], list[Limit]]:
        month = [limit for limit in self.further if limit.kind in _IN_MONTH]
        day = [limit for limit in self.further if limit.kind == MONEY_A_DAY]
        return [limit for limit in self.further if limit not in month and limit not in day], month, day

    def hold(self, gateway: str, quota: str, now: str, month: str, day: str) -> bytes:
        """What a lease remembers, to be given back (``lease.lua``): how many fields of each kind; gateway and quota;
        where there are any, the hashes and the fields. Zeros end names."""
        held = [limit for limit in self.further if limit.kind != REQUESTS]
        kinds = [limit.kind for limit in held]
        fields = [limit.fields[kind in _SPENT] for limit, kind in zip(held, kinds, strict=True)]
        names = (gateway, quota, *((now, month, day, *fields) if held else ()))
        counts = bytes(kinds.count(kind) for kind in KINDS if kind != REQUESTS)
        return counts + b"".join(name.encode() + b"\0" for name in names)


@lru_cache(maxsize=65_536)
def limit_set(
    requests_per_second: int | None,
    tokens_per_month: int | None,
    further: tuple[Limit, ...] = (),
    nano: tuple[int, int, int] = (0, 0, 0),
) -> LimitSet:
    """The one object of these limits."""
    return LimitSet(requests_per_second, tokens_per_month, further, nano)


def may_be_shared(limits: LimitSet) -> bool:
    """Whether gateways can hold shares of them: of tokens a month, and nothing else that can be spent."""
    return bool(limits.tokens_per_month) and not limits.further


def limits_of(grant: Grant, offer: Offer, price: Price, tier: Limits) -> LimitSet:
    """What holds for a key at a service: ``tier`` as the entitlement has it, the key's own, the consumer's budgets.

    A budget counts services of its own currency only. A soft one refuses nothing, so it is no limit here.
    """
    found = further_of(grant.limits, grant.budgets, offer.id, tier, price.currency)
    further = tuple(limit for limit in found if not limit.soft)
    has_money = any(limit.is_money for limit in further)
    return limit_set(
        tier.requests_per_second, tier.tokens_per_month, further, bounds_of(price) if has_money else (0, 0, 0)
    )


def further_of(
    own: KeyLimits | None, budgets: Iterable[Budget], service_id: uuid.UUID, tier: Limits, currency: str
) -> list[Limit]:
    """All further limits of calls at a service whose price is in ``currency``, soft budgets too, as scripts sort them.

    ``own``: the key's, or None for whoever calls without one; ``budgets``: the consumer's.
    """
    found = [
        *_counts("service", str(service_id), tier.concurrent_requests, tier.tokens_per_minute),
        *_money("service", service_id, tier.budget, currency),
        *(_of_key(own, currency) if own is not None else ()),
    ]
    for budget in budgets:
        found += _money("consumer", None, budget, currency)
    return sorted(found, key=lambda limit: KINDS.index(limit.kind))


def _of_key(own: KeyLimits, currency: str) -> Iterable[Limit]:
    lineage = str(own.lineage)
    if own.requests_per_second is not None:
        yield Limit(REQUESTS, "key", f"b:{lineage}", own.requests_per_second)
    yield from _counts("key", lineage, own.concurrent_requests, own.tokens_per_minute)
    if own.tokens_per_month is not None:
        yield Limit(TOKENS, "key", shards.tokens_field(own.lineage), own.tokens_per_month)
    yield from _money("key", own.lineage, own.budget, currency)


def _counts(scope: Scope, of: str, concurrent: int | None, tokens_per_minute: int | None) -> Iterable[Limit]:
    if concurrent is not None:
        yield Limit(CONCURRENT, scope, f"c:{of}", concurrent)
    if tokens_per_minute is not None:
        yield Limit(TOKENS_A_MINUTE, scope, f"p:{of}", tokens_per_minute)


def _money(scope: Scope, of: uuid.UUID | None, budget: Budget | None, currency: str) -> Iterable[Limit]:
    if budget is not None and budget.currency == currency:
        kind = MONEY_A_DAY if budget.period == "day" else MONEY_A_MONTH
        name = shards.money_field(budget.currency, of)
        yield Limit(kind, scope, name, money.nano(budget.amount), budget.currency, budget.soft)


def bounds_of(price: Price) -> tuple[int, int, int]:
    """Nano-units that a call, each token of its prompt, and each token of its output can cost at most."""
    prompt, output = (
        max(price.rates.get(kind, money.ZERO) for kind in (group, *parts)) for group, parts in GROUPS.items()
    )
    return money.nano(price.per_request), money.nano(prompt), money.nano(output)
