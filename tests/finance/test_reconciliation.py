"""Reconciliation: what agrees is left alone, and one row corrupted in any of the books is named by the next look."""

import datetime as dt
from decimal import Decimal
from typing import Any
from unittest.mock import Mock

import pytest
from django.db import connection
from django.db.models import F

from analytics import from_ledger, stream
from common import clock
from common.ids import uuid7
from finance import reconciliation
from finance.models import Difference, ExportJob, Reconciliation
from finance.tasks import reconcile_books
from metering.models import (
    ClosedMonth,
    DailyUsageRollup,
    JournalBatch,
    QuotaPeriod,
    UsageRecord,
    UsageRollup,
)
from quotas import sync
from tests import factories
from tests.console import console, operator
from tests.finance.test_exports import done
from tests.metering.market import Market
from tests.metering.scripts import admit, counter, settle


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(sync, "PATIENCE", 1.0)


@pytest.fixture
def books(market: Market) -> Market:
    """Three calls, settled and drained: 90 tokens at 0.009 USD, in all books; and another consumer's one."""
    market.valkey.flushall()  # counters of other tests, whose rows are gone
    market.drain()
    for _ in range(3):
        entry = market.entry()
        admit(market, entry)
        settle(market, entry)
    market.write(market.entry(consumer_id=factories.make_consumer().id), how="replay")
    market.drain()
    return market


def reconciled() -> Reconciliation:
    found = reconciliation.reconcile(asked_by="anna")
    assert found is not None
    return found


def differences() -> list[Difference]:
    return list(reconciled().differences.all())


def test_books_that_agree_are_left_alone(books: Market) -> None:
    done()
    found = reconciled()
    assert (found.is_zero, found.pairs, found.found) == (True, 2, 0)
    assert found.state == "no difference in 2 services and consumers"
    assert found.positions[str(books.shard)].startswith("1:")


def test_a_row_changed_in_the_ledger_is_named(books: Market) -> None:
    record = UsageRecord.objects.filter(consumer=books.consumer).order_by("id")[0]
    UsageRecord.objects.filter(id=record.id).update(
        cost_amount=F("cost_amount") + Decimal("0.000000000000000001")
    )
    (found,) = differences()
    assert (found.source, found.consumer_id, found.service_id) == (
        Difference.Source.LEDGER, books.consumer.id, books.service.id,
    )  # fmt: skip
    assert str(record.id) in found.cause
    assert (found.ledger["cost"], found.other["cost"]) == ("0.009000000000000001", "0.009")


def test_a_row_lost_from_the_ledger_is_named_by_its_hour(books: Market) -> None:
    record = UsageRecord.objects.filter(consumer=books.consumer).order_by("id")[0]
    UsageRecord.objects.filter(id=record.id).delete()
    (found,) = differences()
    assert (found.source, found.ledger["requests"], found.other["requests"]) == ("ledger", 2, 3)
    assert f"{record.timestamp:%Y-%m-%d %H}h" in found.cause


def test_a_rollup_changed_by_hand_is_named(books: Market) -> None:
    UsageRollup.objects.filter(consumer=books.consumer).update(total_tokens=91)
    (found,) = differences()
    assert (found.source, found.consumer_id) == (Difference.Source.ROLLUP, books.consumer.id)
    assert (found.ledger["tokens"], found.other["tokens"], found.other["period_tokens"]) == (90, 91, 90)


def test_a_day_changed_by_hand_is_named(books: Market) -> None:
    DailyUsageRollup.objects.filter(consumer=books.consumer).update(total_tokens=91)
    (found,) = differences()
    assert (found.source, found.consumer_id) == (Difference.Source.ROLLUP, books.consumer.id)
    assert (found.other["tokens"], found.other["daily_tokens"]) == (90, 91)
    assert "by day" in found.cause


CHANGES: tuple[dict[str, Any], ...] = (
    {"cached_tokens": 1}, {"charged": 2}, {"duration_ms": 1}, {"tier": "basic"}, {"status": "error"},
    {"upstream_requests": 1}, {"upstream_amount": 1},
)  # fmt: skip


@pytest.mark.parametrize("rollups", [UsageRollup, DailyUsageRollup])
def test_whatever_a_statement_is_made_of_is_compared(
    books: Market, rollups: type[UsageRollup | DailyUsageRollup]
) -> None:
    row = rollups.objects.get(consumer=books.consumer)
    for changed in CHANGES:
        rollups.objects.filter(id=row.pk).update(**changed)
        (found,) = differences()
        assert (found.source, found.consumer_id) == (Difference.Source.ROLLUP, books.consumer.id)
        assert "not by key, price version" in found.cause
        row.save()


def test_a_row_of_the_ledger_that_moved_to_another_price_or_kind_is_named_by_its_hour(books: Market) -> None:
    dearer = books.service.publish_price(factories.PER_REQUEST)
    record = UsageRecord.objects.filter(consumer=books.consumer).order_by("id")[0]
    hour, of_it = f"{record.timestamp:%Y-%m-%d %H}h", UsageRecord.objects.filter(id=record.id)
    changes: list[dict[str, Any]] = [
        {"price_version": dearer},
        {"usage": {**record.usage, "cached_tokens": 9}},
        {"cost_amount": 1, "cost": {"amount": 1, "currency": "USD"}},
    ]
    for change in changes:
        of_it.update(**change)
        (found,) = differences()
        assert (found.source, found.consumer_id) == (Difference.Source.LEDGER, books.consumer.id)
        assert "which agree" in found.cause
        assert hour in found.cause
        of_it.update(price_version=record.price_version, usage=record.usage)


def test_a_quota_period_changed_or_made_up_is_named(books: Market) -> None:
    QuotaPeriod.objects.filter(consumer=books.consumer).update(used=0)
    QuotaPeriod.objects.create(
        consumer=factories.make_consumer(), service=books.service, month=books.month, used=7
    )
    found = [each for each in differences() if each.source == Difference.Source.PERIOD]
    assert {(each.ledger["month_tokens"], each.other["period_tokens"]) for each in found} == {(90, 0), (0, 7)}


def test_a_live_counter_changed_by_hand_is_named_and_healed(books: Market) -> None:
    assert differences() == []
    books.valkey.hset(books.quota_key, "used", "50")
    (found,) = differences()
    assert (found.source, found.consumer_id) == (Difference.Source.COUNTER, books.consumer.id)
    assert (found.ledger, found.other) == ({"tokens": 90}, {"tokens": 50})
    assert found.cause.endswith("healed")
    assert counter(books)["used"] == 90
    assert differences() == []


def test_an_exported_file_changed_by_hand_is_named(books: Market) -> None:
    job, file = done()
    file.write_bytes(file.read_bytes().replace(b"0.003", b"0.004"))
    (found,) = differences()
    assert (found.source, found.export) == (Difference.Source.EXPORT, job)
    assert job.manifest is not None
    assert found.ledger == {"sha256": job.manifest["sha256"]}
    file.unlink()
    (found,) = differences()
    assert found.other == {"sha256": "no file"}


def test_a_manifest_changed_by_hand_is_named_by_service_and_consumer(books: Market) -> None:
    job, _ = done()
    assert job.manifest is not None
    for row in job.manifest["sums"]:
        if row["consumer_id"] == str(books.consumer.id):
            row["cost"] = "0.0090001"
    job.save()
    (found,) = differences()
    assert (found.consumer_id, found.service_id) == (books.consumer.id, books.service.id)
    assert (found.ledger["cost"], found.other["cost"]) == ("0.009", "0.0090001")


def test_what_was_drained_after_an_export_is_no_difference(books: Market) -> None:
    late = uuid7(int((clock.now() - dt.timedelta(seconds=1)).timestamp() * 1000))
    done()
    books.write(books.entry(request_id=late), how="replay")
    books.drain()
    exported = ExportJob.objects.get()
    assert UsageRecord.objects.filter(id=late, timestamp__lt=exported.end).exists()
    assert differences() == []


def test_what_was_drained_long_after_an_export_is_no_difference_either(books: Market) -> None:
    """A stream that began before the export's end and ended after it. What came since goes from the outbox as ever."""
    begun = uuid7(int((clock.now() - dt.timedelta(seconds=1)).timestamp() * 1000))
    done()
    books.write(books.entry(request_id=begun), how="replay")
    books.drain()
    for _ in range(from_ledger.KEPT_BATCHES + 1):
        books.write(books.entry(), how="replay")
        books.drain()
    before = JournalBatch.objects.count()
    stream.flush()
    assert JournalBatch.objects.count() < before
    assert differences() == []
    ExportJob.objects.update(state=ExportJob.State.EXPIRED)
    stream.flush()
    assert not JournalBatch.objects.filter(record_ids__contains=[begun]).exists()


def test_without_valkey_the_rest_is_compared_and_that_is_told(books: Market, settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:9/0"
    found = reconciled()
    assert (found.counters_compared, found.is_zero, found.found) == (False, False, 0)
    assert "could not be read" in found.state


def test_finance_is_written_to_once(books: Market, mailoutbox: list[Any]) -> None:
    person = operator("finance")
    person.email = "finance@example.com"
    person.save()
    assert differences() == []
    assert mailoutbox == []
    UsageRollup.objects.filter(consumer=books.consumer).update(total_tokens=91)
    assert (len(differences()), len(differences())) == (1, 1)
    (letter,) = mailoutbox
    assert (letter.to, letter.subject) == (["finance@example.com"], "1 differences in the books")


def test_a_letter_that_could_not_be_sent_is_sent_with_the_next_look(
    books: Market, mailoutbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    person = operator("finance")
    person.email = "finance@example.com"
    person.save()
    assert differences() == []
    books.valkey.hset(books.quota_key, "used", "50")
    with monkeypatch.context() as without_mail:
        without_mail.setattr("finance.letters.send_mail", Mock(side_effect=ConnectionRefusedError))
        assert len(differences()) == 1
    assert (differences(), differences()) == ([], [])  # a drift is healed, and found once
    (letter,) = mailoutbox
    assert "live counter" in letter.body


def test_two_at_once_are_one(books: Market) -> None:
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, 0)", [reconciliation._LOCK])
        assert reconciliation.reconcile(asked_by="anna") is None
        # Told, and not left to the end of the session, which the server comes to in its own time.
        cursor.execute("SELECT pg_advisory_unlock(%s, 0)", [reconciliation._LOCK])
    other.close()
    reconcile_books()
    assert Reconciliation.objects.get().asked_by == "beat"


@pytest.mark.django_db
def test_the_last_month_is_compared_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: dt.datetime(2028, 3, 1, tzinfo=dt.UTC))
    february, march = dt.date(2028, 2, 1), dt.date(2028, 3, 1)
    assert reconciliation.open_months() == [february, march]
    ClosedMonth.objects.create(month=february)
    assert reconciliation.open_months() == [march]


def test_the_console_tells_in_one_line_and_finance_asks_for_another(
    books: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("finance.tasks.reconcile_books.delay", asked.append)
    client = console(operator("finance"))
    assert "not reconciled yet" in client.get("/admin/").content.decode()
    reconciled()
    assert "no difference in 2 services and consumers" in client.get("/admin/").content.decode()
    UsageRollup.objects.update(total_tokens=91)
    number = reconciled().id
    assert "2 differences" in client.get("/admin/").content.decode()
    page = client.get(f"/admin/finance/reconciliation/{number}/change/")
    assert "the rollups differ from the ledger" in page.content.decode()
    assert client.post("/admin/finance/reconciliation/now/").status_code == 302
    assert len(asked) == 1
    viewer = console(operator("viewer"))
    assert viewer.post("/admin/finance/reconciliation/now/").status_code == 403
    assert client.get("/admin/finance/reconciliation/now/").status_code == 405
    assert len(asked) == 1
