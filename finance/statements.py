"""The statement of one consumer and UTC month: what was used, at which prices, and what it comes to.

Its lines are those of ``finance.charges``, with names. By currency they add up to what is payable to the last digit;
those of usage, corrections and what was recorded beside a price add up to the ledger.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

from accounts.models import Consumer
from catalog.models import PriceVersion, Service
from catalog.pricing import REQUEST, TOKEN
from catalog.pricing_words import in_words
from common import clock
from finance.charges import Category, ChargeLine, Charges, charges, sum_of
from finance.consumer_months import charges_of, uses_of
from metering import explorer
from metering.models import ClosedMonth, UsageRecord

#: Categories whose lines add up to what the ledger has of the month.
OF_LEDGER = (Category.USAGE, Category.CORRECTION, Category.RECORDED)
_COUNTED = {
    "prompt": "Prompt tokens", "completion": "Completion tokens", "cached": "Cached prompt tokens",
    "cache_write": "Prompt tokens written to a cache", "reasoning": "Reasoning tokens",
    "audio_prompt": "Audio prompt tokens", "audio_completion": "Audio completion tokens", TOKEN: "Tokens",
    REQUEST: "Requests", "month": "",
}  # fmt: skip
_WORDS = {
    Category.USAGE: "",
    Category.CORRECTION: "Correction",
    Category.RECORDED: "Recorded beside the price",
    Category.STEP: "Given back for the month's quantity",
    Category.FEE: "Monthly fee",
    Category.MINIMUM: "Missing to the month's least amount",
    Category.ROUNDING: "Rounding to what is payable",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line and what it is called. ``kind``: of the rows in the ledger that it opens to; empty where it has none."""

    what: str
    charge: ChargeLine
    kind: str = ""

    @property
    def has_quantity(self) -> bool:
        """Whether quantity and rate tell more than the amount alone."""
        return self.charge.counted not in ("", "month")


@dataclass(frozen=True, slots=True)
class PricedLines:
    """Lines of one service at one price version. ``price``: in words."""

    service_id: uuid.UUID | None
    service: str
    price_version_id: uuid.UUID | None
    price: str
    since: dt.datetime | None
    lines: Sequence[Line]

    @property
    def amount(self) -> Decimal:
        return sum_of(line.charge.amount for line in self.lines)


@dataclass(frozen=True, slots=True)
class Account:
    """All of a month in one currency. ``payable`` is ``recorded``, ``added`` and ``rounding`` together."""

    currency: str
    parts: Sequence[PricedLines]
    recorded: Decimal
    added: Decimal
    rounding: Decimal
    payable: Decimal


@dataclass(frozen=True, slots=True)
class Statement:
    """``is_final``: the month is closed, so nothing of this changes any more."""

    consumer_id: uuid.UUID
    consumer: str
    month: dt.date
    is_final: bool
    made_at: dt.datetime
    accounts: Sequence[Account]


@dataclass(frozen=True, slots=True)
class Summary:
    """One consumer's month in one currency, in a list of many."""

    consumer_id: uuid.UUID
    consumer: str
    currency: str
    recorded: Decimal
    payable: Decimal


def statement(consumer: Consumer, month: dt.date) -> Statement:
    """Of a UTC month, named by its first day."""
    return statement_of(consumer.id, consumer.name, month, charges_of(consumer.id, month))


def statement_of(
    consumer_id: uuid.UUID, consumer: str, month: dt.date, found: Sequence[Charges]
) -> Statement:
    """Of what was charged already."""
    names = _Names(line for each in found for line in each.lines)
    return Statement(
        consumer_id=consumer_id,
        consumer=consumer,
        month=month,
        is_final=ClosedMonth.objects.filter(month=month).exists(),
        made_at=clock.now(),
        accounts=[_account(each, names) for each in found],
    )


def summaries(month: dt.date, consumers: tuple[uuid.UUID, ...] | None = None) -> list[Summary]:
    """The dearest of a month, ``explorer.MOST_ROWS`` at most; of these consumers alone where they are named."""
    last = clock.next_month(month) - dt.timedelta(days=1)
    rows = explorer.rows(explorer.Question(month, last, "consumer", consumers=consumers))
    payable = {
        (consumer, each.currency): each.total
        for consumer, uses in uses_of(month, consumers={row.id for row in rows})
        for each in charges(uses)
    }
    return [
        Summary(
            row.id, row.label, row.sums.currency, row.sums.cost, payable.get((row.id, row.sums.currency), Decimal(0))
        )
        for row in rows
    ]  # fmt: skip


class _Names:
    """What services are called, and what prices say."""

    def __init__(self, lines: Iterable[ChargeLine]) -> None:
        keys = {(line.service_id, line.price_version_id) for line in lines}
        self._services: Mapping[Any, Service] = Service.objects.in_bulk({key for key, _ in keys if key})
        self._prices: Mapping[Any, PriceVersion] = PriceVersion.objects.in_bulk(
            {key for _, key in keys if key}
        )

    def part(
        self, service_id: uuid.UUID | None, version_id: uuid.UUID | None, lines: Sequence[Line]
    ) -> PricedLines:
        price = self._prices.get(version_id)
        return PricedLines(
            service_id=service_id,
            service=str(self._services.get(service_id, service_id)),
            price_version_id=version_id,
            price=in_words(price.pricing) if price else "—",
            since=price.begins if price else None,
            lines=lines,
        )


def _account(found: Charges, names: _Names) -> Account:
    def of(categories: Iterable[Category]) -> Decimal:
        return sum_of(line.amount for line in found.lines if line.category in categories)

    added = [category for category in Category if category not in (*OF_LEDGER, Category.ROUNDING)]
    return Account(
        currency=found.currency,
        parts=sorted(_parts(found, names), key=lambda part: (part.service, str(part.service_id))),
        recorded=of(OF_LEDGER),
        added=of(added),
        rounding=of([Category.ROUNDING]),
        payable=found.total,
    )


def _parts(found: Charges, names: _Names) -> Iterator[PricedLines]:
    """By service and price version, in the order in which the month came to them."""

    def key(line: ChargeLine) -> tuple[uuid.UUID, int]:
        return line.service_id or uuid.UUID(int=0), first[line.price_version_id]

    lines = [line for line in found.lines if line.category is not Category.ROUNDING]
    first: dict[uuid.UUID | None, int] = {}
    for place, line in enumerate(lines):
        first.setdefault(line.price_version_id, place)
    for _, of_part in groupby(sorted(lines, key=key), key=key):
        priced = list(of_part)
        yield names.part(priced[0].service_id, priced[0].price_version_id, [_line(line) for line in priced])


def _line(line: ChargeLine) -> Line:
    counted = _COUNTED.get(line.counted, "")
    words = _WORDS[line.category]
    what = f"{words}: {counted[0].lower()}{counted[1:]}" if words and counted else words or counted
    is_correction = line.category is Category.CORRECTION
    return Line(what, line, UsageRecord.Kind.CORRECTION if is_correction else UsageRecord.Kind.USAGE)
