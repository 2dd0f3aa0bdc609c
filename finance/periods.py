"""Closing a month: what has to be so, each told for itself, and the one commit that freezes it.

The order matters: what gateways hold comes to leases, what leases hold comes to the journals, and what these hold comes
to the ledger; so whoever looked at them one after the other and found nothing of the month has missed nothing.
"""

import datetime as dt
from dataclasses import dataclass

import redis
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Exists, Max, Min, OuterRef, Q

from audit import trail
from catalog.models import Service
from common import clock
from finance import books
from finance.errors import PeriodNotReady
from finance.models import Difference, Reconciliation
from finance.snapshot import one_moment
from metering import barrier, closed_months, dead_letters, gateways
from metering.models import ClosedMonth, UsageRecord, UsageRollup
from quotas import open_leases
from quotas.leases import GRACE_MS, LEASE_MS

#: Gateways' clocks and the server's may differ so far (``quotas.admission``).
_SKEW = dt.timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that has to be so before a month closes, and how it is."""

    name: str
    is_met: bool
    found: str


@dataclass(frozen=True, slots=True)
class Month:
    """A UTC month that may close; ``[start, end)``."""

    first: dt.date

    @property
    def start(self) -> dt.datetime:
        return clock.month_start(self.first)

    @property
    def end(self) -> dt.datetime:
        return clock.month_start(clock.next_month(self.first))


def open_months() -> list[dt.date]:
    """Months that are not closed, from the first one with usage to this one."""
    this, end = clock.month_of(clock.now()), ClosedMonth.objects.end()
    first = UsageRollup.objects.aggregate(first=Min("hour"))["first"] if end is None else end
    month = this if first is None else min(this, clock.month_of(first))
    months = [month]
    while months[-1] < this:
        months.append(clock.next_month(months[-1]))
    return months


def conditions(first: dt.date) -> list[Condition]:
    """What has to be so before the month closes, and whether it is. Waits a moment for drains that are at work."""
    month = Month(first)
    asked = (
        _is_over,
        _is_next,
        _gateways_hold_nothing,
        _no_lease_is_open,
        _drained,
        _nothing_is_unsettled,
        _no_dead_letter_waits,
        _reconciled,
    )
    return [ask(month) for ask in asked]


def close(first: dt.date, *, actor: str, address: str | None = None) -> ClosedMonth:
    """Close the month for good. Raises ``PeriodNotReady`` where something is not as it has to be.

    The books are compared whole in one moment, while drains go on; they wait only for a look at whether anything of
    the month was written since.
    """
    month = Month(first)
    with one_moment() as moment:
        compared = closed_months.sums(moment, first)
        _require([_books_agree(month, moment)])
    _require(conditions(first))
    with transaction.atomic():
        closed_months.hold_writers()
        _require([_is_next(month), _no_dead_letter_waits(month), _is_as_compared(month, compared)])
        closed = closed_months.freeze(first, closed_by=actor)
        trail.record(
            actor=actor,
            action="month_closed",
            target_type="closed_months",
            target_id=str(closed),
            after={"records": closed.records, "corrections": closed.corrections, "totals": closed.totals},
            address=address,
        )
    return closed


def _require(found: list[Condition]) -> None:
    missing = [condition for condition in found if not condition.is_met]
    if missing:
        raise PeriodNotReady("; ".join(f"{condition.name}: {condition.found}" for condition in missing))


def _is_over(month: Month) -> Condition:
    longest = Service.objects.aggregate(call=Max("deadline_seconds"), stream=Max("stream_deadline_seconds"))
    seconds = max(longest["call"] or 0, longest["stream"] or 0)
    at = month.end + dt.timedelta(seconds=seconds, milliseconds=LEASE_MS + GRACE_MS) + _SKEW
    return Condition(
        "The month is over, and its longest stream", clock.now() >= at, f"since {at:%Y-%m-%d %H:%M:%S} UTC"
        if clock.now() >= at else f"at {at:%Y-%m-%d %H:%M:%S} UTC",
    )  # fmt: skip


def _is_next(month: Month) -> Condition:
    end = ClosedMonth.objects.end()
    if end is not None and month.end <= end:
        return Condition("It is open", False, "closed already")
    earlier = open_months()[0]
    is_next = earlier >= month.first
    return Condition("Earlier months are closed", is_next, "all" if is_next else f"{earlier:%Y-%m} is not")


def _gateways_hold_nothing(month: Month) -> Condition:
    silent_since = clock.now() - gateways.SILENT_AFTER
    missing = []
    for gateway in gateways.expected():
        if gateway.is_silent(silent_since):
            missing.append(f"{gateway} is silent with possibly unsent usage")
        elif gateway.oldest_open is not None and gateway.oldest_open < month.end:
            missing.append(f"{gateway} holds calls since {gateway.oldest_open:%Y-%m-%d %H:%M:%S}")
    return Condition("Gateways hold no call of it", not missing, "; ".join(missing) or "none")


def _no_lease_is_open(month: Month) -> Condition:
    name = "No lease of it is open"
    try:
        count = open_leases.begun_before(month.end)
    except redis.RedisError:
        return Condition(name, False, "Valkey does not answer")
    return Condition(name, count == 0, f"{count} open")


def _drained(month: Month) -> Condition:
    name = "All journals are drained"
    try:
        behind = barrier.behind()
    except redis.RedisError:
        return Condition(name, False, "Valkey does not answer")
    return Condition(name, not behind, f"{len(behind)} shards are not" if behind else "all")


def _nothing_is_unsettled(month: Month) -> Condition:
    decided = UsageRecord.objects.filter(corrects=OuterRef("id"), kind=UsageRecord.Kind.CORRECTION)
    count = (
        UsageRecord.objects.filter(
            kind=UsageRecord.Kind.USAGE,
            status=UsageRecord.Status.UNSETTLED,
            timestamp__gte=month.start,
            timestamp__lt=month.end,
        )
        .filter(~Exists(decided))
        .count()
    )
    return Condition("Nothing is unsettled", count == 0, f"{count} rows")


def _no_dead_letter_waits(month: Month) -> Condition:
    count = dead_letters.waiting_of(month.start, month.end)
    return Condition("No dead letter of it waits", count == 0, f"{count} wait")


def _reconciled(month: Month) -> Condition:
    name = "The latest reconciliation is zero"
    of_it = Reconciliation.objects.filter(months__contains=[month.first], started_at__gte=month.end)
    latest = of_it.order_by("-id").first()
    if latest is None:
        return Condition(name, False, "none since the month's end")
    if not latest.counters_compared:
        return Condition(name, False, "live counters could not be read")
    found = Difference.objects.filter(reconciliation=latest).filter(Q(month=month.first) | Q(month=None))
    return Condition(
        name, not found.exists(), f"{found.count()} differences, {latest.finished_at:%Y-%m-%d %H:%M:%S}"
    )


def _books_agree(month: Month, moment: BaseDatabaseWrapper) -> Condition:
    _, differences = books.compare(moment, [month.first])
    return Condition("The books agree", not differences, f"{len(differences)} differences")


def _is_as_compared(month: Month, compared: closed_months.Sums) -> Condition:
    is_same = closed_months.sums(connection, month.first) == compared
    return Condition("Nothing of it came meanwhile", is_same, "nothing" if is_same else "try again")
