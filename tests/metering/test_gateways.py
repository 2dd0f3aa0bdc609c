"""The register of gateways: who may hold usage that no journal has yet."""

import datetime as dt

import pytest

from audit.models import AuditEntry
from common import clock
from metering import gateways
from metering.gateways import Report
from metering.models import Gateway

pytestmark = pytest.mark.django_db
BEGAN = dt.datetime(2028, 2, 29, 23, 59, 59, 999000, tzinfo=dt.UTC)


def said(id_: str = "a", *, spooled: int = 0, age: int = 0) -> Report:
    return Report(
        id=id_,
        host="one.example",
        started_at=clock.now() - dt.timedelta(seconds=age),
        open_calls=spooled,
        spooled=spooled,
        oldest_open=BEGAN if spooled else None,
        mode="local" if spooled else "normal",
    )


def silent_since(id_: str, minutes: int) -> None:
    Gateway.objects.filter(id=id_).update(seen_at=clock.now() - dt.timedelta(minutes=minutes))


def test_a_gateway_is_expected_until_it_stops() -> None:
    gateways.report(said(spooled=2))
    (row,) = gateways.expected()
    assert (row.host, row.open_calls, row.spooled, row.oldest_open) == ("one.example", 2, 2, BEGAN)
    assert row.mode == "local"
    gateways.end("a")
    assert list(gateways.expected()) == []
    row.refresh_from_db()
    assert (row.spooled, row.oldest_open) == (0, None)
    gateways.report(said())
    assert [row.id for row in gateways.expected()] == ["a"]


def test_a_dead_ones_slot_is_taken_over_and_its_next_owner_is_another_gateway() -> None:
    gateways.report(said("dead", spooled=1, age=60))
    gateways.report(said("heir", spooled=1, age=30), took_over={"dead", "heir"})
    assert [row.id for row in gateways.expected()] == ["heir"]
    gateways.report(said("dead"))  # whoever started in that slot since
    gateways.report(said("heir", age=30), took_over={"dead", "heir"})
    assert [row.id for row in gateways.expected()] == ["dead", "heir"]


def test_only_a_silent_one_is_dismissed_with_a_note_that_is_audited_and_it_may_come_back() -> None:
    gateways.report(said(spooled=1))
    assert not gateways.dismiss("a", note="gone", actor="anna")
    silent_since("a", 2)
    assert gateways.dismiss("a", note="its disk burnt", actor="anna", address="10.0.0.1")
    assert not gateways.dismiss("a", note="again", actor="anna")
    assert list(gateways.expected()) == []
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target_id) == ("anna", "gateway_dismissed", "a")
    assert entry.after == {"note": "its disk burnt"}
    gateways.report(said(spooled=1))
    assert [(row.id, row.note) for row in gateways.expected()] == [("a", "")]
