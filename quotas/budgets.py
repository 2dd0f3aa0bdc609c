"""Every budget there is, and what is spent of it, as the live counters have it."""

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import redis
from django.db.models import Q

from accounts.budgets import Budget
from accounts.models import ConsumerBudget
from catalog.models import Entitlement
from common import clock, money
from keys.models import ApiKey
from metering import shards
from quotas.limits import Scope

#: Counters that are asked for at once.
_CHUNK = 1_000


@dataclass(frozen=True, slots=True)
class Held:
    """A budget and whose it is. ``of``: the service, or the key's lineage; None for the consumer as a whole."""

    consumer_id: uuid.UUID
    scope: Scope
    of: uuid.UUID | None
    name: str
    budget: Budget

    @property
    def field(self) -> str:
        """Where it is counted, in the consumer's ``spent_key`` of its period."""
        return shards.money_field(self.budget.currency, self.of)

    def begins(self, at: dt.datetime) -> dt.date:
        """The first day of the period that a moment falls into."""
        return clock.month_of(at) if self.budget.period == "month" else at.astimezone(clock.UTC).date()

    def key(self, at: dt.datetime) -> str:
        first = self.begins(at)
        period = f"{first:%Y%m}" if self.budget.period == "month" else f"{first:%Y%m%d}"
        return shards.spent_key(shards.shard_of(self.consumer_id), self.consumer_id, period)


def every_budget() -> Iterator[Held]:
    """Soft and hard ones: of consumers, of keys that may be used, and at services, as entitlement or tier set them."""
    for row in ConsumerBudget.objects.select_related("consumer").iterator():
        yield Held(row.consumer_id, "consumer", None, str(row.consumer), row.value)
    keys = ApiKey.objects.usable(clock.now()).latest_of_lineage().exclude(budget_amount=None)
    for key in keys.iterator():
        if key.budget is not None:
            yield Held(key.consumer_id, "key", key.lineage, f"API key {key}", key.budget)
    limited = ~Q(budget_amount=None) | ~Q(tier__budget_amount=None)
    for entitlement in Entitlement.objects.filter(limited).select_related("service", "tier").iterator():
        budget = entitlement.limits.budget
        if budget is not None:
            service = entitlement.service
            yield Held(entitlement.consumer_id, "service", service.id, str(service), budget)


def spent(client: redis.Redis, of: Iterable[Held], at: dt.datetime) -> Iterator[tuple[Held, int]]:
    """What is spent of each in the period of a moment, nano-units. Raises ``redis.RedisError``."""
    rest = iter(of)
    while some := list(islice(rest, _CHUNK)):
        pipeline = client.pipeline(transaction=False)
        for held in some:
            pipeline.hget(held.key(at), held.field)
        for held, used in zip(some, pipeline.execute(), strict=True):
            yield held, int(used or 0)


def share(used: int, budget: Budget) -> int:
    """How much of a budget that is, percent, rounded down. All of a budget of nothing is spent."""
    whole = money.nano(budget.amount)
    return 100 if whole == 0 else used * 100 // whole
