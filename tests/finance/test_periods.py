"""Closing a month: each thing that has to be so is told, and one that is not keeps the month open."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest

from audit.models import AuditEntry
from common import clock
from common.ids import moment_of, uuid7
from finance import periods, reconciliation
from finance.errors import PeriodNotReady
from finance.models import Difference
from metering import barrier, corrections, gateways, shards
from metering.models import ClosedMonth, DeadLetter, Gateway, UsageRecord, UsageRollup
from quotas import sync
from tests.console import console, operator
from tests.factories import make_service
from tests.metering.market import Market


def last_month() -> dt.date:
    return clock.month_of(clock.month_start(clock.month_of(clock.now())) - dt.timedelta(days=1))


def end() -> dt.datetime:
    return clock.month_start(clock.month_of(clock.now()))


def id_of_last_month() -> uuid.UUID:
    return uuid7(int(end().timestamp() * 1000) - 1)


@pytest.fixture
def ready(market: Market, monkeypatch: pytest.MonkeyPatch) -> Market:
    """One call in last month, drained and reconciled; the first minutes of a month are passed over."""
    for module, name, seconds in (
        (sync, "BETWEEN_LOOKS", 0.01),
        (sync, "PATIENCE", 1.0),
        (barrier, "PATIENCE", 0.2),
    ):
        monkeypatch.setattr(module, name, seconds)
    now = clock.now
    if now() - end() < dt.timedelta(minutes=20):
        monkeypatch.setattr(clock, "now", lambda: now() + dt.timedelta(minutes=20))
    market.write(market.entry(request_id=id_of_last_month()), market.entry())
    market.drain()
    assert reconciliation.reconcile(asked_by="anna") is not None
    return market


def missing() -> dict[str, str]:
    return {found.name: found.found for found in periods.conditions(last_month()) if not found.is_met}


def refused() -> str:
    with pytest.raises(PeriodNotReady) as refusal:
        periods.close(last_month(), actor="anna")
    assert not ClosedMonth.objects.exists()
    return str(refusal.value.detail)


def test_a_month_that_lacks_nothing_closes_once_and_is_audited(ready: Market) -> None:
    assert periods.open_months() == [last_month(), ready.month]
    assert missing() == {}
    closed = periods.close(last_month(), actor="anna", address="10.0.0.1")
    assert (closed.closed_by, closed.records, closed.totals) == ("anna", 1, {"USD": "0.003"})
    entry = AuditEntry.objects.get(action="month_closed")
    assert (entry.actor, entry.address, entry.target_id) == ("anna", "10.0.0.1", f"{last_month():%Y-%m}")
    assert entry.after == {"records": 1, "corrections": 0, "totals": {"USD": "0.003"}}
    assert periods.open_months() == [ready.month]
    with pytest.raises(PeriodNotReady, match="closed already"):
        periods.close(last_month(), actor="anna")
    with pytest.raises(PeriodNotReady, match="is over"):
        periods.close(ready.month, actor="anna")
    assert AuditEntry.objects.filter(action="month_closed").count() == 1


def test_a_call_that_nobody_settled_keeps_it_open_until_it_is_voided_or_settled(ready: Market) -> None:
    entries = [ready.unsettled(request_id=id_of_last_month()) for _ in range(2)]
    ready.write(*entries, how="reaped")
    ready.drain()
    assert "Nothing is unsettled: 2 rows" in refused()

    corrections.void(ready.record(entries[0]), note="the upstream says so", actor="anna")
    ready.write(ready.entry(request_id=entries[1].request_id), how="late")
    ready.drain()
    assert missing() == {}
    assert periods.close(last_month(), actor="anna").records == 3


def test_a_settle_in_the_next_month_of_a_call_of_the_last_millisecond(ready: Market) -> None:
    """Let in at 23:59:59.999, reaped, voided, closed; and settled after all."""
    entry = ready.entry(request_id=id_of_last_month())
    assert moment_of(entry.request_id) == end() - dt.timedelta(milliseconds=1)
    ready.write(ready.unsettled(request_id=entry.request_id), how="reaped")
    ready.drain()
    corrections.void(ready.record(entry), note="lost", actor="anna")
    periods.close(last_month(), actor="anna")
    ready.write(entry, entry, how="late")
    ready.drain()
    rows = UsageRecord.objects.filter(request_id=entry.request_id).order_by("id")
    assert [(row.kind, row.status, row.cost_amount) for row in rows] == [
        ("usage", "unsettled", Decimal(0)), ("correction", "unsettled", Decimal(0)),
        ("correction", "success", Decimal("0.003")),
    ]  # fmt: skip
    assert [clock.month_of(row.timestamp) for row in rows] == [last_month(), ready.month, ready.month]
    assert reconciliation.reconcile(asked_by="anna").found == 0  # type: ignore[union-attr] # nobody else is at it


def report(**fields: Any) -> None:
    said: dict[str, Any] = {"open_calls": 0, "spooled": 0, "oldest_open": None, **fields}
    gateways.report(gateways.Report(id="a", host="one.example", started_at=clock.now(), **said))


def test_a_gateway_that_holds_a_call_of_it_or_fell_silent_keeps_it_open(ready: Market) -> None:
    name = "Gateways hold no call of it"
    report(spooled=1, oldest_open=moment_of(id_of_last_month()))
    assert missing() == {
        name: f"one.example a holds calls since {end() - dt.timedelta(seconds=1):%Y-%m-%d %H:%M:%S}"
    }
    report(spooled=1, oldest_open=end())
    assert missing() == {}
    Gateway.objects.update(seen_at=clock.now() - dt.timedelta(minutes=2))
    assert missing() == {name: "one.example a is silent with possibly unsent usage"}
    assert "silent" in refused()
    gateways.dismiss("a", note="its disk burnt", actor="anna")
    assert missing() == {}


def test_an_open_lease_of_it_keeps_it_open(ready: Market) -> None:
    leases = shards.leases_key(7)
    ready.valkey.hset(leases, str(uuid7()), "a lease")
    assert missing() == {}
    ready.valkey.hset(leases, str(id_of_last_month()), "a lease")
    assert missing() == {"No lease of it is open": "1 open"}


def test_a_journal_that_is_not_drained_keeps_it_open(ready: Market) -> None:
    ready.write(ready.entry(request_id=id_of_last_month()))
    assert missing() == {"All journals are drained": "1 shards are not"}
    ready.drain()
    ready.valkey.delete(shards.epoch_key(3))
    assert missing() == {"All journals are drained": "1 shards are not"}


def test_without_valkey_it_stays_open(ready: Market, settings: Any) -> None:
    url, settings.REDIS_URL = settings.REDIS_URL, "redis://127.0.0.1:9/0"
    assert set(missing().values()) == {"Valkey does not answer"}
    reconciliation.reconcile(asked_by="anna")
    settings.REDIS_URL = url
    assert missing() == {"The latest reconciliation is zero": "live counters could not be read"}


def test_a_dead_letter_of_it_keeps_it_open_until_it_is_set_aside(ready: Market) -> None:
    ready.write(ready.entry(request_id=id_of_last_month(), service_id=uuid.uuid4()))
    ready.write(ready.entry(service_id=uuid.uuid4()))
    ready.drain()
    assert DeadLetter.objects.count() == 2
    assert missing() == {"No dead letter of it waits": "1 wait"}
    ready.write(b"{}")
    ready.drain()
    assert missing() == {"No dead letter of it waits": "2 wait"}
    client = console(operator("finance"))
    chosen = {
        "action": "set_aside",
        "_selected_action": list(DeadLetter.objects.values_list("id", flat=True)),
    }
    client.post("/admin/metering/deadletter/", chosen)
    assert DeadLetter.objects.filter(resolved_at=None).count() == 3
    client.post("/admin/metering/deadletter/", {**chosen, "note": "a test wrote them"})
    assert missing() == {}
    assert AuditEntry.objects.filter(action="dead_letter.set_aside").count() == 3


def test_books_that_differ_keep_it_open_even_where_nobody_reconciled_since(ready: Market) -> None:
    UsageRollup.objects.filter(hour__lt=end()).update(total_tokens=31)
    assert missing() == {}
    assert refused() == "The books agree: 1 differences"
    reconciliation.reconcile(asked_by="anna")
    assert list(missing()) == ["The latest reconciliation is zero"]
    Difference.objects.all().delete()
    UsageRollup.objects.filter(hour__lt=end()).update(total_tokens=30)
    assert missing() == {}


def test_months_close_in_their_order(ready: Market) -> None:
    before = clock.month_start(last_month()) - dt.timedelta(milliseconds=1)
    ready.write(ready.entry(request_id=uuid7(int(before.timestamp() * 1000))))
    ready.drain()
    first = clock.month_of(before)
    assert periods.open_months() == [first, last_month(), ready.month]
    assert missing() == {"Earlier months are closed": f"{first:%Y-%m} is not"}
    assert "none since the month's end" in str([found.found for found in periods.conditions(first)])
    reconciliation.reconcile(asked_by="anna")
    periods.close(first, actor="anna")
    periods.close(last_month(), actor="anna")
    assert [closed.records for closed in ClosedMonth.objects.order_by("month")] == [1, 1]


def test_what_came_while_the_books_were_compared_keeps_it_open(
    ready: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = periods.conditions

    def late(first: dt.date) -> list[periods.Condition]:
        found = asked(first)
        ready.write(ready.unsettled(request_id=id_of_last_month()), how="reaped")
        ready.drain()
        return found

    monkeypatch.setattr(periods, "conditions", late)
    assert refused() == "Nothing of it came meanwhile: try again"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("first", "over"),
    [
        (dt.date(2028, 1, 1), dt.datetime(2028, 2, 1, tzinfo=dt.UTC)),
        (dt.date(2028, 2, 1), dt.datetime(2028, 3, 1, tzinfo=dt.UTC)),
        (dt.date(2027, 12, 1), dt.datetime(2028, 1, 1, tzinfo=dt.UTC)),
    ],
    ids=["31 January", "29 February", "31 December"],
)
def test_a_month_is_over_when_its_longest_stream_is(
    first: dt.date, over: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In UTC, wherever a consumer is: in UTC+14 the next month is fourteen hours old by then."""
    make_service(stream_deadline_seconds=900)
    passed = dt.timedelta(seconds=900 + 40 + 60 + 5)
    moments = (
        over - dt.timedelta(milliseconds=1),
        over,
        over + passed - dt.timedelta(milliseconds=1),
        over + passed,
    )
    found = []
    for moment in moments:
        monkeypatch.setattr(clock, "now", lambda moment=moment: moment)
        found.append(periods._is_over(periods.Month(first)).is_met)
    assert found == [False, False, False, True]
    assert periods.Month(first).end == over


def test_the_console_tells_what_a_month_lacks_and_finance_closes_it(ready: Market) -> None:
    page, month = "/admin/metering/closedmonth/", last_month()
    close = f"{page}close/{month.year}-{month.month}/"
    viewer = console(operator("viewer"))
    assert f"{last_month():%Y-%m}" in viewer.get(page).content.decode()
    for role in ("viewer", "admin", "approver"):
        client = console(operator(role))
        assert (client.get(close).status_code, client.post(close).status_code) == (403, 403)
    assert not ClosedMonth.objects.exists()

    finance = console(operator("finance"))
    assert close in finance.get(page).content.decode()
    report(spooled=1, oldest_open=moment_of(id_of_last_month()))
    text = finance.get(close).content.decode()
    assert "holds calls since" in text
    assert "for good" not in text
    assert "cannot be closed yet" in finance.post(close, follow=True).content.decode()
    gateways.end("a")
    assert "for good" in finance.get(close).content.decode()
    assert "is closed" in finance.post(close, follow=True).content.decode()
    assert ClosedMonth.objects.get().month == last_month()
    for none in ("2028-13", "9999-12"):
        assert finance.get(f"/admin/metering/closedmonth/close/{none}/").status_code == 404
