"""Reconciliation: journal + ledger = rollups = quota periods = live counters = last export, by service and consumer.

Live counters are compared by ``quotas.sync``, at one position of the journal, and healed there; what it found since the
last time is a difference here. Everything else is read in one moment of the database.
"""

import datetime as dt
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from django.db import connection, transaction

from common import clock
from finance import books, last_export, periods
from finance.letters import write_to_finance
from finance.models import Difference, Reconciliation
from finance.snapshot import one_moment, positions
from metering.models import ClosedMonth
from quotas import sync
from quotas.models import QuotaDrift

log = logging.getLogger(__name__)

#: How long reconciliations that found nothing are kept.
KEPT = dt.timedelta(days=30)
#: Of how many one letter tells.
MOST_TOLD = 50
_LOCK = 0x7265636F


def reconcile(*, asked_by: str, months: list[dt.date] | None = None) -> Reconciliation | None:
    """Compare the books of these months, or of those that are open now; None where somebody else is at it."""
    with _alone() as is_alone:
        if not is_alone:
            return None
        done, differences = _compare(months or open_months(), asked_by)
        for difference in differences:
            log.error("reconciliation: %s", difference)
        _tell_finance(done)
    return done


def open_months() -> list[dt.date]:
    """This month, and until they are closed the last one and the one that closes next."""
    this, end = clock.month_of(clock.now()), ClosedMonth.objects.end()
    last = clock.month_of(clock.month_start(this) - dt.timedelta(days=1))
    months = sorted({periods.open_months()[0], last, this})
    return [month for month in months if end is None or clock.month_start(month) >= end]


def latest() -> Reconciliation | None:
    """The last reconciliation that ended."""
    return Reconciliation.objects.order_by("-id").first()


def forget() -> None:
    """Remove old reconciliations that found nothing."""
    Reconciliation.objects.filter(found=0, finished_at__lt=clock.now() - KEPT).delete()


def _compare(months: list[dt.date], asked_by: str) -> tuple[Reconciliation, list[Difference]]:
    started_at = clock.now()
    counters_compared = _sync()
    with one_moment() as moment:
        pairs, differences = books.compare(moment, months)
        differences += last_export.compare(moment)
        at = positions(moment)
    with transaction.atomic():
        differences += _drifts()
        _mark_known(differences)
        done = Reconciliation.objects.create(
            started_at=started_at,
            months=months,
            pairs=pairs,
            found=len(differences),
            counters_compared=counters_compared,
            positions=at,
            asked_by=asked_by,
        )
        for difference in differences:
            difference.reconciliation = done
        Difference.objects.bulk_create(differences)
    return done, differences


def _sync() -> bool:
    """Compare live counters; False where Valkey did not answer."""
    try:
        sync.sync_quotas()
    except redis.RedisError as error:
        log.warning("live counters could not be compared: %s", type(error).__name__)
        return False
    return True


def _drifts() -> list[Difference]:
    """What the comparison of counters found since the last reconciliation, whoever asked for it."""
    before = latest()
    drifts = QuotaDrift.objects.order_by("id")
    if before is not None:
        drifts = drifts.filter(found_at__gt=before.finished_at)
    return [
        Difference(
            source=Difference.Source.COUNTER,
            month=drift.month,
            consumer_id=drift.consumer_id,
            service_id=drift.service_id,
            ledger=drift.told(drift.ledger),
            other=drift.told(drift.counter),
            cause=f"{drift.counted}: {drift.reason}; " + ("healed" if drift.healed else "not healed"),
        )
        for drift in drifts
    ]


def _mark_known(differences: list[Difference]) -> None:
    """What the last reconciliation found too is told of by that one."""
    known = {difference.subject for difference in Difference.objects.filter(reconciliation=latest())}
    for difference in differences:
        difference.told_at = clock.now() if difference.subject in known else None


def _tell_finance(done: Reconciliation) -> None:
    """Write of everything that nobody was written to of yet: again where a letter could not be sent."""
    fresh = list(Difference.objects.filter(told_at=None).order_by("id"))
    told = [f"{difference.get_source_display()}: {difference.cause}" for difference in fresh[:MOST_TOLD]]
    subject = f"{len(fresh)} differences in the books"
    if fresh and write_to_finance(subject, [f"Reconciliation of {done}", "", *told]):
        Difference.objects.filter(id__in=[difference.pk for difference in fresh]).update(told_at=clock.now())


@contextmanager
def _alone() -> Iterator[bool]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, 0)", [_LOCK])
        is_alone = bool(cursor.fetchone()[0])
    try:
        yield is_alone
    finally:
        if is_alone:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, 0)", [_LOCK])
