"""Calls that cost something else than the price in force at their time says: shown, and made good by corrections.

They come about where a price was published for a moment in the past. The call's own row stays as it is; a correction
names it and holds the difference, so that doing it again finds nothing. Rows of closed months are left alone, and so
are calls that nobody settled, and corrections that came by other ways.

A correction moves no step of a month and changes no fee (``finance.charges``). So where the month decides what either
price comes to, calls are left alone too: all of them would be corrected to the highest rate, and nothing given back.
"""

import datetime as dt
import uuid
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

from django.db import connection, transaction
from django.db.models import Q, Sum

from audit import trail
from catalog.models import PriceVersion
from catalog.pricing import EXACT, KINDS, Price, Tokens
from catalog.pricing_shapes import parse_pricing
from common.ids import milliseconds_of, uuid7
from common.money import ZERO, plain
from metering import journal, ledger, positions, shards
from metering.lines import Line, owners_of
from metering.models import ClosedMonth, UsageRecord

#: Rows that are looked at together, and corrected in one transaction for each shard.
PAGE = 2_000
#: One at a time: whoever comes second finds the corrections of the first.
_LOCK = 0x72657072
_USAGE, _CORRECTION = UsageRecord.Kind.USAGE, UsageRecord.Kind.CORRECTION
_REPRICED = UsageRecord.Settlement.REPRICED
#: Why a call is left alone.
NO_PRICE = "no price in this currency was in force: left alone"
MONTH_DECIDES = "the month decides what one of the prices comes to: left alone, to be corrected by hand"


@dataclass(frozen=True, slots=True)
class Scope:
    """Calls of the moments in ``[start, end)``; None: of every service, of every consumer."""

    start: dt.datetime
    end: dt.datetime
    service_id: uuid.UUID | None = None
    consumer_id: uuid.UUID | None = None

    def rows(self) -> Q:
        found = Q(kind=_USAGE, timestamp__gte=self.start, timestamp__lt=self.end)
        if self.service_id is not None:
            found &= Q(service_id=self.service_id)
        if self.consumer_id is not None:
            found &= Q(consumer_id=self.consumer_id)
        return found & ~Q(status=UsageRecord.Status.UNSETTLED)


@dataclass(frozen=True, slots=True)
class Repriced:
    """A call, what it costs until now with earlier corrections of this kind, and what the price in force says.

    ``should_cost`` is None where the call is left alone, and ``left_alone`` says why.
    """

    record: UsageRecord
    version_id: uuid.UUID | None
    costs: Decimal
    should_cost: Decimal | None
    left_alone: str = ""

    @property
    def difference(self) -> Decimal:
        return ZERO if self.should_cost is None else EXACT.subtract(self.should_cost, self.costs)


def compare(scope: Scope) -> Iterator[Repriced]:
    """Every call in question, in the order of the ledger, whether it differs or not. Nothing is written."""
    prices = _Prices()
    for page in _pages(scope):
        yield from _compared(page, prices)


def reprice(scope: Scope, *, actor: str) -> int:
    """Write the corrections that are missing; returns how many. May be killed and begun anew at any time."""
    prices, written = _Prices(), 0
    for page in _pages(scope):
        differing = [found.record for found in _compared(page, prices) if found.difference]
        differing.sort(key=lambda record: shards.shard_of(record.consumer_id))
        for shard, records in groupby(differing, key=lambda record: shards.shard_of(record.consumer_id)):
            written += _correct(shard, list(records), prices, actor)
    return written


@transaction.atomic
def _correct(shard: int, records: Sequence[UsageRecord], prices: "_Prices", actor: str) -> int:
    """Compared again while nobody else reprices and no month closes, since either may have been meanwhile."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        # Closing a month waits for this, and is waited for: ``metering.closed_months``.
        cursor.execute("LOCK TABLE journal_positions IN ROW EXCLUSIVE MODE")
    end = ClosedMonth.objects.end()
    still_open = [record for record in records if end is None or record.timestamp >= end]
    lines = [_line(shard, found) for found in _compared(still_open, prices) if found.difference]
    if lines:
        positions.append(shard, [line.id for line in lines])
        ledger.enter(*lines)
        _tell_of(lines, actor)
    return len(lines)


def _tell_of(lines: Sequence[Line], actor: str) -> None:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        currency = line.entry.currency
        sums[currency] = EXACT.add(sums[currency], line.cost)
    trail.record(
        actor=actor,
        action="usage_repriced",
        target_type="usage_records",
        target_id=lines[0].entry.request_id,
        after={
            "corrections": [str(line.id) for line in lines],
            "difference": {currency: plain(amount) for currency, amount in sorted(sums.items())},
        },
    )


def _pages(scope: Scope) -> Iterator[list[UsageRecord]]:
    """Open rows by id, which is made of time; each page begins where the last one ended."""
    end = ClosedMonth.objects.end()
    rows = UsageRecord.objects.filter(scope.rows()).order_by("id")
    if end is not None:
        rows = rows.filter(timestamp__gte=end)
    page = list(rows[:PAGE])
    while page:
        yield page
        last = page[-1]
        page = list(rows.filter(id__gt=last.id, timestamp__gte=last.timestamp)[:PAGE])


def _compared(records: Sequence[UsageRecord], prices: "_Prices") -> Iterator[Repriced]:
    earlier = _earlier(records)
    for record in records:
        version_id, price = prices.at(record.service_id, milliseconds_of(record.id))
        costs = EXACT.add(record.cost_amount, earlier.get(record.id, ZERO))
        if price is None or price.currency != record.currency:
            yield Repriced(record, version_id, costs, None, NO_PRICE)
        elif version_id != record.price_version_id and not _calls_decide(prices.charged(record), price):
            yield Repriced(record, version_id, costs, None, MONTH_DECIDES)
        else:
            yield Repriced(record, version_id, costs, cost_of(record, price))


def _calls_decide(charged: Price | None, in_force: Price) -> bool:
    """Whether what two prices differ by in a month is what they differ by in its calls."""
    if charged is None:
        return False
    has_steps = charged.steps or in_force.steps or charged.least or in_force.least
    return not has_steps and charged.fee == in_force.fee


def cost_of(record: UsageRecord, price: Price) -> Decimal:
    """What a call costs at a price: a function of its row and the price alone."""
    usage = record.usage
    tokens = Tokens(**{kind: usage.get(f"{kind}_tokens", 0) for kind in KINDS})
    return price.cost(tokens, charged=usage.get("usage_source") != "none")


def _earlier(records: Iterable[UsageRecord]) -> dict[uuid.UUID, Decimal]:
    """What earlier corrections of this kind come to."""
    corrections = UsageRecord.objects.filter(
        corrects__in=[record.id for record in records], kind=_CORRECTION, settlement=_REPRICED
    )
    return dict(corrections.order_by().values_list("corrects").annotate(Sum("cost_amount")))


class _Prices:
    """The approved prices of each service, read once."""

    def __init__(self) -> None:
        self._of: dict[uuid.UUID, list[tuple[int, uuid.UUID, Price]]] = {}

    def at(self, service_id: uuid.UUID, at_ms: int) -> tuple[uuid.UUID | None, Price | None]:
        """The version in force at a moment, as a gateway knows it; None before the first."""
        if service_id not in self._of:
            versions = (
                PriceVersion.objects.approved().filter(service_id=service_id).order_by("effective_from")
            )
            self._of[service_id] = [
                (int(version.begins.timestamp() * 1000), version.id, parse_pricing(version.pricing))
                for version in versions
            ]
        known = self._of[service_id]
        position = bisect_right(known, at_ms, key=lambda version: version[0])
        return known[position - 1][1:] if position else (None, None)

    def charged(self, record: UsageRecord) -> Price | None:
        """The one that its row names; None where there is none of its name. After ``at`` for the same service."""
        known = self._of[record.service_id]
        return next((price for _, id_, price in known if id_ == record.price_version_id), None)


def _line(shard: int, found: Repriced) -> Line:
    record = found.record
    entry = journal.Entry(
        request_id=record.request_id,
        consumer_id=record.consumer_id,
        service_id=record.service_id,
        api_key_id=record.api_key_id,
        price_version_id=found.version_id or record.price_version_id,
        tier=record.tier_id,
        currency=record.currency,
        status=record.status,  # type: ignore[arg-type] # one of the ledger's
        cost=plain(found.difference),
    )
    return Line(
        shard=shard,
        stream_id=b"",
        raw=b"",
        settlement=_REPRICED,
        entry=entry,
        id=uuid7(),
        cost=found.difference,
        metadata=None,
        owners=owners_of(entry, entry.tier),
        kind=_CORRECTION,
    )
