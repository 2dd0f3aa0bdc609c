"""Objectives against what was measured: incidents open, change their severity and close."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from django.db import connection, transaction

from common import clock
from sla.measures import Measure, measure
from sla.models import Severity, SlaIncident, SlaViolation


class Outcome(StrEnum):
    """What a check found, and what it made of the objective's incident."""

    KEPT = "kept"
    NO_DATA = "no data"  # an open incident stays open: silence is not recovery
    OPENED = "opened"
    CHANGED = "changed severity"
    STILL_BROKEN = "still broken"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Finding:
    measure: Measure
    outcome: Outcome


@transaction.atomic
def check() -> list[Finding]:
    """Check every objective of every service. May run any number of times; of two at once, one waits.

    Without that order, a check that looked earlier and wrote later could close what has just been opened.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('sla.checks', 0))")
    now = clock.now()
    measures = measure(now)
    _close_withdrawn(measures, now)
    return [Finding(found, _judge(found, now)) for found in measures]


def _judge(found: Measure, now: dt.datetime) -> Outcome:
    if found.actual is None:
        return Outcome.NO_DATA
    if found.severity is None:
        return Outcome.CLOSED if _close(found, now) else Outcome.KEPT
    return _break(found, float(found.actual), found.severity, now)


def _close(found: Measure, now: dt.datetime) -> bool:
    still_open = SlaIncident.objects.filter(service_id=found.service_id, metric=found.metric, closed_at=None)
    return still_open.update(closed_at=now) > 0


def _break(found: Measure, actual: float, severity: Severity, now: dt.datetime) -> Outcome:
    # The unique constraint on open incidents is what makes this safe, whoever else writes.
    incident, opened = SlaIncident.objects.select_for_update().get_or_create(
        service_id=found.service_id,
        metric=found.metric,
        closed_at=None,
        defaults={"severity": severity, "opened_at": now, "last_seen_at": now},
    )
    changed = incident.severity != severity
    if not opened:
        SlaIncident.objects.filter(id=incident.id).update(severity=severity, last_seen_at=now)
    if opened or changed:
        SlaViolation.objects.create(
            service_id=found.service_id,
            incident=incident,
            metric=found.metric,
            threshold=float(found.threshold),
            actual=actual,
            timestamp=now,
            severity=severity,
        )
    if opened:
        return Outcome.OPENED
    return Outcome.CHANGED if changed else Outcome.STILL_BROKEN


def _close_withdrawn(measures: Sequence[Measure], now: dt.datetime) -> None:
    """Close incidents of objectives that the service no longer has: no check would ever do it."""
    objectives = {(found.service_id, found.metric) for found in measures}
    for incident in SlaIncident.objects.filter(closed_at=None):
        if (incident.service_id, incident.metric) not in objectives:
            SlaIncident.objects.filter(id=incident.id, closed_at=None).update(closed_at=now)
