"""What a month of one consumer comes to, line by line: a pure function of what was used and at which prices.

A call costs its price's highest rate, whatever the month brings (``catalog.pricing``); its cost is in the ledger, and
budgets count it. What depends on the month is settled here, in lines of its own beside the usage: steps and what is
included give back, a fee and a least amount come on top.

- A count goes through the month: a new price version goes on where the one before ended.
- Fee and least amount are those of the version that was used last, once a service and month with a charged call.
- Every line's amount is its quantity times its rate, exactly. Rounding is the last line, one for each currency.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from enum import StrEnum
from itertools import groupby

from catalog.pricing import EXACT, Price, Step, Tokens
from common.money import ZERO, presented

_ONE = Decimal(1)


class Category(StrEnum):
    """What a line is. ``RECORDED``: by how much the ledger's rows differ from their own price, which is corrected by
    ``manage.py reprice``; the line makes the sum that of the ledger."""

    USAGE = "usage"
    CORRECTION = "correction"
    RECORDED = "recorded"
    STEP = "step"
    FEE = "fee"
    MINIMUM = "minimum"
    ROUNDING = "rounding"


@dataclass(frozen=True, slots=True)
class Use:
    """What the ledger has of one consumer at one service, price version and currency in a month.

    ``requests``: those that are charged. ``cost``: what its rows cost. ``correction``: of rows that correct others.
    """

    service_id: uuid.UUID
    price_version_id: uuid.UUID
    price: Price
    currency: str
    tokens: Tokens
    requests: int
    cost: Decimal
    correction: bool = False


@dataclass(frozen=True, slots=True)
class ChargeLine:
    """``counted``: a kind of token, ``token``, ``request``, ``month``; empty where there is an amount alone."""

    category: Category
    currency: str
    counted: str
    quantity: Decimal
    rate: Decimal
    service_id: uuid.UUID | None = None
    price_version_id: uuid.UUID | None = None

    @property
    def amount(self) -> Decimal:
        return EXACT.multiply(self.quantity, self.rate)


@dataclass(frozen=True, slots=True)
class Charges:
    """The lines of a month in one currency; they add up to ``total``, which is what is presented."""

    currency: str
    lines: tuple[ChargeLine, ...]
    total: Decimal


def charges(uses: Iterable[Use]) -> list[Charges]:
    """By currency. ``uses`` of a service come in the order in which their prices began to hold."""
    by_service = groupby(sorted(uses, key=lambda use: use.service_id), key=lambda use: use.service_id)
    lines: dict[str, list[ChargeLine]] = defaultdict(list)
    for _, of_service in by_service:
        for line in _of_service(list(of_service)):
            lines[line.currency].append(line)
    return [_rounded(currency, of_it) for currency, of_it in sorted(lines.items())]


def total_of(lines: Iterable[ChargeLine]) -> Decimal:
    """The exact sum."""
    return sum_of(line.amount for line in lines)


def sum_of(amounts: Iterable[Decimal]) -> Decimal:
    """The exact sum: Python's own rounds after 28 digits."""
    with localcontext(EXACT):
        return sum(amounts, ZERO)


def _rounded(currency: str, lines: Sequence[ChargeLine]) -> Charges:
    exact = total_of(lines)
    total = presented(exact, currency)
    difference = EXACT.subtract(total, exact)
    if difference:
        lines = [*lines, ChargeLine(Category.ROUNDING, currency, "", _ONE, difference)]
    return Charges(currency, tuple(lines), total)


def _of_service(uses: Sequence[Use]) -> Iterator[ChargeLine]:
    calls = [use for use in uses if not use.correction]
    by_currency: dict[str, list[ChargeLine]] = defaultdict(list)
    for use in uses:
        by_currency[use.currency] += _usage(use)
    for line in _steps(calls):
        by_currency[line.currency].append(line)
    for line in _of_month(calls, by_currency):
        by_currency[line.currency].append(line)
    for lines in by_currency.values():
        yield from lines


def _usage(use: Use) -> Iterator[ChargeLine]:
    """A line for everything that is counted, and one for what the rows differ by."""
    category = Category.CORRECTION if use.correction else Category.USAGE
    lines = [
        _line(use, category, counted, quantity, use.price.unit_rates[counted])
        for counted, quantity in _counts(use).items()
        if quantity
    ]
    yield from lines
    difference = EXACT.subtract(use.cost, total_of(lines))
    if difference:
        other = Category.CORRECTION if use.correction else Category.RECORDED
        yield _line(use, other, "", 1, difference)


def _counts(use: Use) -> Mapping[str, int]:
    if use.price.currency != use.currency:
        return {}
    return use.price.counts(use.tokens, use.requests, are_changes=use.correction)


def _steps(calls: Sequence[Use]) -> Iterator[ChargeLine]:
    """By how much each step lies below the rate that calls cost."""
    whole: dict[str, int] = defaultdict(int)
    for use in calls:
        for counted, quantity in _counts(use).items():
            whole[counted] += quantity
    before: dict[str, int] = defaultdict(int)
    for use in calls:
        for counted, quantity in _counts(use).items():
            steps = use.price.steps.get(counted, ())
            reached = (
                _at_volume(steps, whole[counted], quantity)
                if use.price.volume
                else _graduated(steps, before[counted], quantity)
            )
            for step, within in reached:
                below = EXACT.subtract(step.rate, use.price.unit_rates[counted])
                if within and below:
                    yield _line(use, Category.STEP, counted, within, below)
            before[counted] += quantity


def _at_volume(steps: Sequence[Step], whole: int, quantity: int) -> Iterator[tuple[Step, int]]:
    """All of the quantity, in the step that the whole month reaches."""
    for step in steps:
        if step.up_to is None or whole <= step.up_to:
            yield step, quantity
            return


def _graduated(steps: Sequence[Step], before: int, quantity: int) -> Iterator[tuple[Step, int]]:
    """How much lies in each step of what comes after ``before``."""
    start, end = before, before + quantity
    for step in steps:
        until = end if step.up_to is None else min(end, step.up_to)
        yield step, max(0, until - start)
        start = max(start, until)


def _of_month(calls: Sequence[Use], lines: Mapping[str, Sequence[ChargeLine]]) -> Iterator[ChargeLine]:
    charged = [use for use in calls if use.requests]
    if not charged:
        return
    last = charged[-1]
    price, currency = last.price, last.price.currency
    # Before anything is yielded: whoever takes the lines adds them to ``lines``.
    used = total_of(line for line in lines.get(currency, ()) if line.category is not Category.CORRECTION)
    if price.fee:
        yield ChargeLine(
            Category.FEE, currency, "month", _ONE, price.fee, last.service_id, last.price_version_id
        )
    missing = EXACT.subtract(price.least, EXACT.add(used, price.fee))
    if price.least and missing > 0:
        yield ChargeLine(
            Category.MINIMUM, currency, "month", _ONE, missing, last.service_id, last.price_version_id
        )


def _line(use: Use, category: Category, counted: str, quantity: int, rate: Decimal) -> ChargeLine:
    return ChargeLine(
        category, use.currency, counted, Decimal(quantity), rate, use.service_id, use.price_version_id
    )
