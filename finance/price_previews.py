"""What a month would have cost with another price: the same lines from the same sums, and nothing is written."""

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from accounts.models import Consumer
from catalog.pricing import KINDS, Price, Tokens
from finance.charges import Category, Use, charges, sum_of, total_of
from finance.consumer_months import uses_of


@dataclass(frozen=True, slots=True)
class Compared:
    """Exact amounts in one currency. Amounts in other currencies are not in it."""

    name: str
    was: Decimal
    would_be: Decimal

    @property
    def difference(self) -> Decimal:
        return sum_of((self.would_be, self.was.copy_negate()))


@dataclass(frozen=True, slots=True)
class Preview:
    """``consumers``: those whom it would change most first. ``left_out``: whose month was in another currency."""

    currency: str
    total: Compared
    consumers: Sequence[Compared]
    left_out: int


def preview(*, service_id: uuid.UUID, price: Price, month: dt.date) -> Preview:
    """All calls of a service in a UTC month, at ``price`` instead. Corrections of other months are left as they are."""
    compared: dict[uuid.UUID, tuple[Decimal, Decimal]] = {}
    left_out = 0
    for consumer_id, uses in uses_of(month, service_id=service_id):
        calls = [use for use in uses if not use.correction]
        if any(use.currency != price.currency for use in calls):
            left_out += 1
        elif calls:
            compared[consumer_id] = _exact(calls), _exact([_instead(calls, price)])
    names = dict(Consumer.objects.filter(id__in=compared).values_list("id", "name"))
    consumers = [
        Compared(names.get(consumer_id, str(consumer_id)), *amounts)
        for consumer_id, amounts in compared.items()
    ]
    consumers.sort(key=lambda each: (-abs(each.difference), each.name))
    total = Compared(
        "All", sum_of(each.was for each in consumers), sum_of(each.would_be for each in consumers)
    )
    return Preview(price.currency, total, consumers, left_out)


def _exact(uses: Iterable[Use]) -> Decimal:
    return total_of(
        line for found in charges(uses) for line in found.lines if line.category is not Category.ROUNDING
    )


def _instead(calls: Sequence[Use], price: Price) -> Use:
    """One use of all that was used, at another price."""
    tokens = Tokens(**{kind: sum(getattr(use.tokens, kind) for use in calls) for kind in KINDS})
    requests = sum(use.requests for use in calls)
    rates = price.unit_rates
    cost = sum_of(rates[counted] * quantity for counted, quantity in price.counts(tokens, requests).items())
    last = calls[-1]
    return Use(last.service_id, last.price_version_id, price, price.currency, tokens, requests, cost)
