"""Incidents and violations over several checks."""

import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connection

from catalog.models import Service
from common import clock
from metering.models import UsageRecord
from sla.checks import Outcome, check
from sla.models import SlaIncident, SlaViolation
from sla.tasks import check_sla
from tests.factories import make_service
from tests.ledger_rows import Calls


def outcomes() -> list[Outcome]:
    return [finding.outcome for finding in check()]


def violations() -> list[tuple[str, float, float, str]]:
    rows = SlaViolation.objects.order_by("timestamp")
    return [(row.metric, row.threshold, row.actual, row.severity) for row in rows]


@pytest.fixture
def calls() -> Calls:
    return Calls(make_service(sla={"latency_p95_ms": 100}))


@pytest.mark.django_db
def test_a_broken_objective_opens_one_incident_and_one_violation(calls: Calls) -> None:
    calls.record(duration_ms=150)
    assert outcomes() == [Outcome.OPENED]
    assert outcomes() == [Outcome.STILL_BROKEN]
    incident = SlaIncident.objects.get()
    assert (incident.service_id, incident.metric, incident.severity) == (
        calls.service.id,
        "latency_p95_ms",
        "warning",
    )
    assert incident.closed_at is None
    assert incident.last_seen_at > incident.opened_at
    assert violations() == [("latency_p95_ms", 100.0, 150.0, "warning")]


@pytest.mark.django_db
def test_a_change_of_severity_adds_a_violation_to_the_same_incident(calls: Calls) -> None:
    first = calls.record(duration_ms=150)
    check()
    UsageRecord.objects.filter(id=first.id).update(duration_ms=200)
    assert outcomes() == [Outcome.CHANGED]
    assert SlaIncident.objects.get().severity == "critical"
    assert violations() == [
        ("latency_p95_ms", 100.0, 150.0, "warning"),
        ("latency_p95_ms", 100.0, 200.0, "critical"),
    ]


@pytest.mark.django_db
def test_an_objective_kept_again_closes_its_incident_and_the_next_break_opens_another(calls: Calls) -> None:
    record = calls.record(duration_ms=150)
    check()
    UsageRecord.objects.filter(id=record.id).update(duration_ms=100)
    assert outcomes() == [Outcome.CLOSED]
    assert outcomes() == [Outcome.KEPT]
    assert SlaIncident.objects.get().closed_at is not None
    UsageRecord.objects.filter(id=record.id).update(duration_ms=101)
    assert outcomes() == [Outcome.OPENED]
    assert SlaIncident.objects.count() == 2
    assert len(violations()) == 2


@pytest.mark.django_db
def test_without_data_an_incident_stays_as_it_is(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    calls.record(duration_ms=150)
    check()
    later = clock.now() + dt.timedelta(minutes=30)
    monkeypatch.setattr(clock, "now", lambda: later)
    assert outcomes() == [Outcome.NO_DATA]
    assert SlaIncident.objects.get().closed_at is None
    assert len(violations()) == 1


@pytest.mark.django_db
def test_an_incident_closes_when_its_objective_is_withdrawn(calls: Calls) -> None:
    calls.record(duration_ms=150)
    check()
    Service.objects.update(sla={"error_rate": 0.5})
    check()
    assert SlaIncident.objects.get().closed_at is not None


@pytest.mark.django_db
def test_the_task_does_what_the_check_does(calls: Calls) -> None:
    calls.record(duration_ms=150)
    check_sla()
    assert violations() == [("latency_p95_ms", 100.0, 150.0, "warning")]


@pytest.mark.django_db
def test_the_command_prints_what_it_found(calls: Calls) -> None:
    Service.objects.update(sla={"latency_p95_ms": 100, "error_rate": 0.01, "uptime": 0.5})
    calls.record(duration_ms=250)
    printed = StringIO()
    call_command("check_sla", stdout=printed)
    assert printed.getvalue().splitlines() == [
        f"{calls.service}: latency_p95_ms 250, objective 100: opened (critical)",
        f"{calls.service}: error_rate 0, objective 0.01: kept",
        f"{calls.service}: uptime 1, objective 0.5: kept",
    ]


@pytest.mark.django_db
def test_the_command_says_when_there_is_nothing_to_check() -> None:
    printed = StringIO()
    call_command("check_sla", stdout=printed)
    assert printed.getvalue() == "No service has objectives.\n"


@pytest.mark.usefixtures("committed")
def test_checks_that_run_at_once_open_one_incident_with_one_violation() -> None:
    Calls(make_service(sla={"latency_p95_ms": 100})).record(duration_ms=150)
    together = threading.Barrier(8)

    def run() -> Outcome:
        together.wait()
        try:
            return outcomes()[0]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        found = [future.result() for future in [pool.submit(run) for _ in range(8)]]
    assert sorted(found) == [Outcome.OPENED] + [Outcome.STILL_BROKEN] * 7
    assert SlaIncident.objects.count() == 1
    assert violations() == [("latency_p95_ms", 100.0, 150.0, "warning")]
