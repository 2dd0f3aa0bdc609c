"""Reports that are sent every month: planned as rows, made by export jobs, sent once each.

A row for each month of a report is what makes it one, however often the task runs. Who sends it marks it first. A
letter whose fate is unknown is left to a person; what goes to a bucket is the same object under the same name every
time. Of a schedule that is switched off nothing goes out, and what waits does so until it is on again.
"""

import datetime as dt
import logging

from django.db import transaction
from django.db.models import F

from common import clock, crash
from finance import exports, report_channels
from finance.letters import write_to_finance
from finance.models import ExportJob, ReportDelivery, ReportSchedule
from finance.report_channels import Refused, Unclear
from metering.archived import UsageArchived

log = logging.getLogger(__name__)

#: After so long, an attempt that left no mark is taken for dead; longer than any may take.
ATTEMPT = dt.timedelta(hours=2)
#: Between two tries, and how many there are.
RETRY = dt.timedelta(minutes=10)
MOST_ATTEMPTS = 50
#: Of how many one letter tells.
MOST_TOLD = 50
_State = ReportDelivery.State


def plan() -> None:
    """A row for every month that is due, and an export for every row. Safe to run twice at once."""
    for schedule in ReportSchedule.objects.filter(is_active=True):
        ReportDelivery.objects.bulk_create(
            (ReportDelivery(schedule=schedule, month=month) for month in _due(schedule)),
            ignore_conflicts=True,
        )
    waiting = ReportDelivery.objects.filter(state=_State.WAITING, schedule__is_active=True)
    for delivery_id in waiting.filter(job=None).values_list("id", flat=True):
        _order_or_fail(delivery_id)
    # Its file had its time before anybody could be reached.
    waiting.filter(job__state=ExportJob.State.EXPIRED).update(job=None)
    gone = waiting.filter(job__state__in=(ExportJob.State.FAILED, ExportJob.State.CANCELLED))
    gone.update(state=_State.FAILED, error="its export failed or was cancelled")


def send() -> int:
    """Send what is made and was not sent; returns how many. Safe to run twice at once."""
    _judge_dead()
    ready = ReportDelivery.objects.filter(
        state=_State.WAITING, schedule__is_active=True, job__state=ExportJob.State.DONE
    )
    due = ready.exclude(attempted_at__gt=clock.now() - RETRY).select_related("schedule__consumer", "job")
    return sum(_send_once(delivery) for delivery in due.order_by("id"))


def tell_of_troubles() -> None:
    """Write to finance of deliveries that failed or are unclear: once of each, or again where this is killed."""
    of_these = ReportDelivery.objects.filter(state__in=(_State.FAILED, _State.UNCLEAR), told_at=None)
    found = list(of_these.select_related("schedule").order_by("id")[:MOST_TOLD])
    told = [f"{delivery}: {delivery.state}, {delivery.error}" for delivery in found]
    if found and write_to_finance(f"{len(found)} reports need a person", told):
        of_these.filter(id__in=[delivery.pk for delivery in found]).update(told_at=clock.now())


def send_again(delivery: ReportDelivery) -> bool:
    """A person says so, of one that was sent, failed or is unclear. The ledger is asked anew."""
    return _moves(
        delivery, _State.WAITING, of=(_State.SENT, _State.UNCLEAR, _State.FAILED), job=None, attempts=0, error="",
        attempted_at=None, sent_at=None, told_at=None,
    )  # fmt: skip


def _due(schedule: ReportSchedule) -> list[dt.date]:
    months, now = [], clock.now()
    month = schedule.first_month
    while clock.month_start(clock.next_month(month)) + dt.timedelta(days=schedule.day - 1) <= now:
        months.append(month)
        month = clock.next_month(month)
    return months


def _order_or_fail(delivery_id: int) -> None:
    """One that cannot be made waits for a person, and no other waits for it."""
    try:
        _order(delivery_id)
    except UsageArchived as gone:
        ReportDelivery.objects.filter(id=delivery_id, state=_State.WAITING, job=None).update(
            state=_State.FAILED, error=gone.detail[:255]
        )


@transaction.atomic
def _order(delivery_id: int) -> None:
    """``finance.tasks.resume_exports`` puts it to work."""
    delivery = (
        ReportDelivery.objects.select_for_update(of=("self",)).select_related("schedule").get(id=delivery_id)
    )
    if delivery.job_id is not None or delivery.state != _State.WAITING:
        return  # another worker got there first
    schedule = delivery.schedule
    delivery.job = exports.order(
        format=schedule.format,
        start=clock.month_start(delivery.month),
        end=clock.month_start(clock.next_month(delivery.month)),
        consumer=schedule.consumer,
        actor=f"report {schedule.pk}",
    )
    delivery.save(update_fields=["job"])


def _send_once(delivery: ReportDelivery) -> bool:
    marked = {"attempted_at": clock.now(), "attempts": F("attempts") + 1}
    if not _moves(delivery, _State.SENDING, of=(_State.WAITING,), **marked):
        return False  # another worker got there first
    crash.point("report-marked")
    try:
        report_channels.send(delivery)
    except Refused as refused:
        is_last = delivery.attempts + 1 >= MOST_ATTEMPTS
        state = _State.FAILED if is_last else _State.WAITING
        _moves(delivery, state, of=(_State.SENDING,), error=str(refused)[:255])
        log.warning("report delivery %s was not sent: %s", delivery.pk, refused)
        return False
    except Unclear as unclear:
        _moves(delivery, _State.UNCLEAR, of=(_State.SENDING,), error=str(unclear)[:255])
        log.error("report delivery %s may have been sent: %s", delivery.pk, unclear)
        return False
    crash.point("report-sent")
    return _moves(delivery, _State.SENT, of=(_State.SENDING,), sent_at=clock.now(), error="")


def _judge_dead() -> None:
    dead = ReportDelivery.objects.filter(state=_State.SENDING, attempted_at__lt=clock.now() - ATTEMPT)
    buckets = dead.filter(schedule__channel=ReportSchedule.Channel.BUCKET)
    buckets.update(state=_State.WAITING)
    dead.filter(schedule__channel=ReportSchedule.Channel.EMAIL).update(
        state=_State.UNCLEAR, error="whoever sent it died meanwhile"
    )


def _moves(delivery: ReportDelivery, state: str, *, of: tuple[str, ...], **fields: object) -> bool:
    changed = ReportDelivery.objects.filter(id=delivery.pk, state__in=of).update(state=state, **fields)
    return bool(changed)
