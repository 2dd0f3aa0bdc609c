"""Usage by day, month, consumer, service, key, tier or status, and what moved: asked of the rollups."""

import datetime as dt
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from django.db.models import F, Q, QuerySet, Sum
from django.db.models.functions import Abs, TruncMonth

from accounts.models import Consumer
from catalog.models import Service
from common.money import ZERO
from keys.models import ApiKey
from metering.models import DailyUsageRollup, UsageRecord

MOST_DAYS = 366
#: Groups that one answer has at most: the dearest ones; totals are of all.
MOST_ROWS = 500
#: Groups that are moments, and are told in their order.
_MOMENTS: dict[str, Any] = {"day": F("day"), "month": TruncMonth("day")}
_COLUMNS = {
    "consumer": "consumer_id", "service": "service_id", "key": "api_key_id", "tier": "tier_id", "status": "status",
}  # fmt: skip
GROUPS = (*_MOMENTS, *_COLUMNS)
_NAMED: dict[str, Any] = {"consumer": Consumer, "service": Service, "key": ApiKey}


@dataclass(frozen=True, slots=True)
class Question:
    """UTC days, both included (366 at most), and what is looked at; None is everything. ``by``: one of ``GROUPS``."""

    first: dt.date
    last: dt.date
    by: str
    consumers: tuple[uuid.UUID, ...] | None = None
    service: uuid.UUID | None = None
    key: uuid.UUID | None = None
    status: str | None = None

    @property
    def days(self) -> int:
        return (self.last - self.first).days + 1

    @property
    def before(self) -> "Question":
        """The same of as many days that end where this one begins."""
        first = self.first - dt.timedelta(days=self.days)
        return Question(
            first,
            self.first - dt.timedelta(days=1),
            self.by,
            self.consumers,
            self.service,
            self.key,
            self.status,
        )


@dataclass(frozen=True, slots=True)
class Sums:
    """What calls and their corrections add up to, in one currency. Tokens by kind; ``cost`` is exact."""

    currency: str
    calls: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    total_tokens: int = 0
    cost: Decimal = ZERO


@dataclass(frozen=True, slots=True)
class Row:
    """One group. ``id``: a day, or what names the row in its table. ``label``: for people."""

    id: Any
    label: str
    sums: Sums


@dataclass(frozen=True, slots=True)
class Move:
    """A group's cost in these days and in as many before."""

    row: Row
    before: Decimal

    @property
    def change(self) -> Decimal:
        return self.row.sums.cost - self.before


def rows(question: Question) -> list[Row]:
    """The groups: moments in their order, all of them where there is any usage; others by cost, the dearest first and
    ``MOST_ROWS`` at most."""
    if question.by in _MOMENTS:
        found = _every_moment(question, _found(_grouped(question)))
    else:
        found = _found(_grouped(question).order_by("-cost", "group")[:MOST_ROWS])
    labels = _labels(question.by, {group for group, _ in found})
    return [Row(group, labels.get(group, str(group)), sums) for group, sums in found]


def totals(question: Question) -> list[Sums]:
    """Of all groups together, by currency."""
    found = _rollups(question).values("currency").annotate(**_SUMS).order_by("currency")
    return [Sums(**each) for each in found]


def movers(question: Question, *, most: int = 10) -> list[Move]:
    """The groups whose cost changed most against as many days before, of all there are; none for moments. Of what they
    add up to, ``row`` has the cost alone."""
    if question.by in _MOMENTS:
        return []
    is_now = Q(day__gte=question.first)
    of_both = _rollups(replace(question, first=question.before.first)).annotate(
        group=F(_COLUMNS[question.by])
    )
    found = of_both.values("group", "currency").annotate(
        cost=Sum("cost_amount", default=ZERO, filter=is_now),
        before=Sum("cost_amount", default=ZERO, filter=~is_now),
    )
    changed = found.annotate(change=Abs(F("cost") - F("before"))).exclude(change=0)
    moves = list(changed.order_by("-change", "group", "currency")[:most])
    labels = _labels(question.by, {move["group"] for move in moves})
    return [
        Move(
            Row(
                move["group"],
                labels.get(move["group"], str(move["group"])),
                Sums(move["currency"], cost=move["cost"]),
            ),
            move["before"],
        )
        for move in moves
    ]


_SUMS = {
    "calls": Sum("requests", default=0, filter=Q(kind=UsageRecord.Kind.USAGE)),
    "errors": Sum("requests", default=0, filter=Q(status=UsageRecord.Status.ERROR)),
    "cost": Sum("cost_amount", default=ZERO),
    **{
        name: Sum(name, default=0)
        for name in (
            "prompt_tokens",
            "completion_tokens",
            "cached_tokens",
            "reasoning_tokens",
            "total_tokens",
        )
    },
}


def _grouped(question: Question) -> QuerySet[Any, dict[str, Any]]:
    if question.by in _MOMENTS:
        truncated = _rollups(question).annotate(group=_MOMENTS[question.by])
    else:
        truncated = _rollups(question).annotate(group=F(_COLUMNS[question.by]))
    return truncated.values("group", "currency").annotate(**_SUMS)


def _found(grouped: Iterable[dict[str, Any]]) -> list[tuple[Any, Sums]]:
    return [(each.pop("group"), Sums(**each)) for each in grouped]


def _every_moment(question: Question, found: list[tuple[Any, Sums]]) -> list[tuple[Any, Sums]]:
    """What was found and, in each of its currencies, nothing for every other moment of the question."""
    sums = {(group, of_it.currency): of_it for group, of_it in found}
    days = (question.first + dt.timedelta(days=n) for n in range(question.days))
    groups = dict.fromkeys(days if question.by == "day" else (day.replace(day=1) for day in days))
    currencies = sorted({currency for _, currency in sums})
    return [
        (group, sums.get((group, currency)) or Sums(currency)) for group in groups for currency in currencies
    ]


def _rollups(question: Question) -> QuerySet[DailyUsageRollup]:
    found = DailyUsageRollup.objects.order_by().filter(day__gte=question.first, day__lte=question.last)
    if question.consumers is not None:
        found = found.filter(consumer_id__in=question.consumers)
    for column, value in (
        ("service_id", question.service), ("api_key_id", question.key), ("status", question.status),
    ):  # fmt: skip
        if value is not None:
            found = found.filter(**{column: value})
    return found


def _labels(by: str, groups: set[Any]) -> dict[Any, str]:
    """What people call the groups; one whose row is gone keeps its id."""
    if by in _MOMENTS:
        return {group: f"{group:%Y-%m-%d}" if by == "day" else f"{group:%Y-%m}" for group in groups}
    model = _NAMED.get(by)
    if model is None:
        return {}
    return {id_: str(found) for id_, found in model.objects.in_bulk(groups).items()}
