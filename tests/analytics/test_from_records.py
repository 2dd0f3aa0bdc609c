"""Violations of objectives and the life of keys as events."""

import datetime as dt

import pytest

from analytics import from_records
from analytics.models import AnalyticsEvent, SourcePosition
from analytics.sinks import TableSink
from analytics.tasks import flush_events
from audit.models import AuditEntry
from audit.trail import record
from common import clock
from keys.issuing import revoke_key
from sla.checks import check
from sla.models import SlaIncident, SlaViolation
from tests.factories import make_key, make_service
from tests.ledger_rows import Calls

pytestmark = pytest.mark.django_db


def move() -> int:
    return from_records.move(TableSink())


def set_clock(monkeypatch: pytest.MonkeyPatch, later: dt.timedelta) -> None:
    moment = clock.now() + later
    monkeypatch.setattr(clock, "now", lambda: moment)


def violation(at: dt.datetime) -> SlaViolation:
    service = make_service()
    common = {"service": service, "metric": "error_rate", "severity": "warning"}
    incident = SlaIncident.objects.create(**common, opened_at=at, last_seen_at=at)
    return SlaViolation.objects.create(**common, incident=incident, threshold=0.1, actual=0.15, timestamp=at)


def test_a_violation_found_by_a_check_becomes_an_event() -> None:
    calls = Calls(make_service("chat", version="1", sla={"latency_p95_ms": 1}))
    calls.record(duration_ms=30)
    check()
    flush_events()
    found = SlaViolation.objects.get()
    event = AnalyticsEvent.objects.get(type="sla_violation")
    assert (event.event_id, event.subject, event.time) == (
        str(found.id),
        str(calls.service.id),
        found.timestamp,
    )
    assert event.data == {
        "incident_id": str(found.incident_id),
        "service_id": str(calls.service.id),
        "service": "chat@1",
        "metric": "latency_p95_ms",
        "threshold": 1.0,
        "actual": 30.0,
        "severity": "critical",
    }


def test_each_row_is_written_once_also_while_it_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    violation(clock.now())
    assert [move(), move()] == [1, 0]
    set_clock(monkeypatch, from_records.OVERLAP * 2)
    assert [move(), move()] == [0, 0]
    assert SourcePosition.objects.get(source="sla").recent == []
    violation(clock.now())
    assert [move(), move()] == [1, 0]
    assert AnalyticsEvent.objects.count() == 2


def test_a_violation_that_is_seen_late_is_not_missed() -> None:
    now = clock.now()
    violation(now)
    assert move() == 1
    late = violation(now - from_records.OVERLAP / 2)
    assert move() == 1
    assert AnalyticsEvent.objects.filter(event_id=str(late.id)).exists()


def test_hundreds_of_rows_after_a_long_pause_are_all_written() -> None:
    start = clock.now() - dt.timedelta(days=3)
    for minute in range(230):
        violation(start + dt.timedelta(minutes=minute))
    assert move() == 230
    assert AnalyticsEvent.objects.count() == 230


def test_a_key_is_made_and_revoked_and_neither_names_a_person() -> None:
    key, _ = make_key()
    record(
        actor="somebody@example.org",
        action="api_key_created",
        target_type="api_key",
        target_id=key.id,
        after={"consumer_id": str(key.consumer_id), "tier": "enterprise", "last4": "abcd", "name": "mine"},
        address="192.0.2.1",
    )
    revoke_key(key=key, actor="somebody@example.org", address="192.0.2.1")
    assert [move(), move()] == [2, 0]
    created = AnalyticsEvent.objects.get(type="api_key_created")
    assert (created.event_id, created.subject) == (str(key.id), str(key.id))
    assert created.data == {
        "api_key_id": str(key.id),
        "consumer_id": str(key.consumer_id),
        "tier": "enterprise",
    }
    revoked = AnalyticsEvent.objects.get(type="api_key_revoked")
    assert set(revoked.data) == {"api_key_id", "consumer_id", "service_id", "revoked_at"}
    assert revoked.data["service_id"] == str(key.service_id)


def test_an_entry_with_a_lower_number_that_is_seen_later_is_not_missed() -> None:
    def entry(id_: int) -> AuditEntry:
        return AuditEntry.objects.create(
            id=id_, actor="", action="api_key_created", target_type="api_key", target_id=f"key-{id_}"
        )

    entry(1_000_002)
    move()
    entry(1_000_001)
    assert [move(), move()] == [1, 0]
    assert set(AnalyticsEvent.objects.values_list("event_id", flat=True)) == {"key-1000002", "key-1000001"}


def test_the_place_in_the_trail_moves_past_entries_of_other_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    other = record(actor="", action="policy_changed", target_type="policy", target_id="x")
    assert move() == 0
    assert SourcePosition.objects.get(source="keys").position == ""
    set_clock(monkeypatch, from_records.OVERLAP * 2)
    assert move() == 0
    assert SourcePosition.objects.get(source="keys").position == str(other.id)
