"""A closed month: nothing of it changes, by whatever SQL, and what still comes for it becomes a correction, once."""

import datetime as dt
import threading
import uuid
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from common import clock
from common.ids import moment_of, uuid7
from finance import books
from finance.snapshot import one_moment
from metering import closed_months, journal, ledger, partitions, positions
from metering.lines import Reader
from metering.models import (
    ClosedMonth,
    DailyUsageRollup,
    JournalBatch,
    QuotaPeriod,
    UsageRecord,
    UsageRollup,
)
from tests.harness.waiting import wait_for
from tests.metering.market import Market, letters
from tests.superuser import superuser_cursor

FREE = Decimal(0)


def last_month() -> dt.date:
    return clock.month_of(clock.month_start(clock.month_of(clock.now())) - dt.timedelta(days=1))


def id_of_last_month() -> uuid.UUID:
    """Of its last millisecond."""
    return uuid7(int(clock.month_start(clock.month_of(clock.now())).timestamp() * 1000) - 1)


def close(month: dt.date | None = None) -> ClosedMonth:
    with transaction.atomic():
        closed_months.hold_writers()
        return closed_months.freeze(month or last_month(), closed_by="anna")


@pytest.fixture
def closed(market: Market) -> journal.Entry:
    """One call in last month, which is closed."""
    entry = market.entry(request_id=id_of_last_month())
    market.write(entry)
    market.drain()
    close()
    return entry


def corrections() -> list[tuple[Any, ...]]:
    rows = UsageRecord.objects.filter(kind="correction").order_by("id")
    return [(row.corrects, row.request_id, row.status, row.total_tokens, row.cost_amount) for row in rows]


def rolled_up() -> dict[tuple[dt.date, str, str], tuple[int, int, Decimal]]:
    return {
        (clock.month_of(row.hour), row.kind, row.status): (row.requests, row.total_tokens, row.cost_amount)
        for row in UsageRollup.objects.all()
    }


def used() -> dict[dt.date, int]:
    return dict(QuotaPeriod.objects.values_list("month", "used"))


def assert_books_agree() -> None:
    with one_moment() as moment:
        assert books.compare(moment, [last_month(), clock.month_of(clock.now())])[1] == []


def test_closing_keeps_what_the_month_came_to(market: Market) -> None:
    market.write(
        market.entry(request_id=id_of_last_month(), cost="0.000000000000000001"),
        market.entry(request_id=id_of_last_month(), cost="12345678901234567890.5"),
        market.entry(request_id=id_of_last_month(), currency="EUR"),
        market.entry(),
    )
    market.drain()
    close()

    closed = ClosedMonth.objects.get()
    assert (closed.month, closed.closed_by, closed.records, closed.corrections) == (
        last_month(),
        "anna",
        3,
        0,
    )
    assert closed.totals == {"EUR": "0.003", "USD": "12345678901234567890.500000000000000001"}
    assert closed.tokens == 90


def test_a_settle_of_an_unsettled_call_becomes_a_correction_in_the_open_month(market: Market) -> None:
    settled = market.entry(request_id=id_of_last_month())
    market.write(market.unsettled(request_id=settled.request_id), how="reaped")
    market.drain()
    close()

    market.write(settled, how="late")
    market.drain()
    market.write(settled, settled, how="replay")
    market.drain()

    assert market.record(settled).status == "unsettled"
    assert corrections() == [
        (settled.request_id, settled.request_id, "success", 30, Decimal("0.003")),
    ]
    correction = UsageRecord.objects.get(kind="correction")
    assert correction.timestamp == moment_of(correction.id) >= clock.month_start(market.month)
    assert rolled_up() == {
        (last_month(), "usage", "unsettled"): (1, 0, FREE),
        (market.month, "correction", "success"): (1, 30, Decimal("0.003")),
    }
    assert (used(), letters()) == ({last_month(): 0}, [])
    assert_books_agree()


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two batches"])
def test_a_call_that_the_ledger_never_saw_becomes_one_correction(
    market: Market, closed: journal.Entry, together: bool
) -> None:
    late, other = market.entry(request_id=id_of_last_month(), limit=7), market.entry()
    market.write(late, other, how="replay")
    if not together:
        market.drain()
    market.write(late, other, how="late")
    market.drain()

    assert corrections() == [(late.request_id, late.request_id, "success", 30, Decimal("0.003"))]
    assert not UsageRecord.objects.filter(id=late.request_id).exists()
    assert rolled_up() == {
        (last_month(), "usage", "success"): (1, 30, Decimal("0.003")),
        (market.month, "correction", "success"): (1, 30, Decimal("0.003")),
        (market.month, "usage", "success"): (1, 30, Decimal("0.003")),
    }
    assert used() == {last_month(): 30, market.month: 30}
    assert QuotaPeriod.objects.get(month=market.month).granted == 1_000_000
    assert market.used() == 30  # a replay of this month is credited, a correction is not
    assert letters() == []
    market.assert_reconciled()
    assert_books_agree()


def test_other_amounts_after_the_correction_wait_for_a_person(market: Market, closed: journal.Entry) -> None:
    late = market.entry(request_id=id_of_last_month())
    market.write(late, market.entry(request_id=late.request_id, cost="9"), how="late")
    market.write(market.entry(request_id=closed.request_id, cost="9"), closed, how="late")
    market.drain()

    assert corrections() == [(late.request_id, late.request_id, "success", 30, Decimal("0.003"))]
    assert letters() == [("conflict", "the ledger has other amounts for this request")] * 2


def test_a_call_that_nobody_settled_is_on_record_once_and_its_settle_still_counts(
    market: Market, closed: journal.Entry
) -> None:
    late = market.entry(request_id=id_of_last_month())
    market.write(*[market.unsettled(request_id=late.request_id)] * 2, how="reaped")
    market.drain()
    assert corrections() == [(late.request_id, late.request_id, "unsettled", 0, FREE)]
    market.write(late, market.unsettled(request_id=late.request_id), late, how="late")
    market.drain()

    assert corrections()[1:] == [(late.request_id, late.request_id, "success", 30, Decimal("0.003"))]
    assert letters() == []
    assert_books_agree()


def test_what_no_row_can_be_made_of_is_found_among_late_calls(market: Market, closed: journal.Entry) -> None:
    late = [market.entry(request_id=id_of_last_month()) for _ in range(3)]
    bad = market.entry(request_id=id_of_last_month(), service_id=uuid.uuid4())
    market.write(late[0], bad, *late[1:], market.entry(), how="late")
    market.drain()

    assert sorted(row[0] for row in corrections()) == sorted(entry.request_id for entry in late)
    assert [reason for reason, _ in letters()] == ["refused"]
    assert_books_agree()


def test_months_that_had_no_calls_are_closed_with_the_next_one(market: Market, closed: journal.Entry) -> None:
    before = clock.month_start(last_month()) - dt.timedelta(milliseconds=1)
    late = market.entry(request_id=uuid7(int(before.timestamp() * 1000)))
    market.write(late, how="replay")
    market.drain()

    assert corrections() == [(late.request_id, late.request_id, "success", 30, Decimal("0.003"))]
    table = partitions.name_of(clock.month_of(before))
    assert refusal(f"INSERT INTO {table} SELECT * FROM usage_records") == "MC001"  # noqa: S608


def refusal(statement: str) -> str:
    """The SQLSTATE that a statement is refused with; empty where it is not."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    except DatabaseError as error:
        cause: Any = error.__cause__
        return str(cause.pgcode)
    return ""


OF_THE_CLOSED = {
    "update": "UPDATE usage_records SET cost_amount = 0 WHERE {closed}",
    "delete": "DELETE FROM usage_records WHERE {closed}",
    "insert": "INSERT INTO usage_records SELECT (jsonb_populate_record(r, jsonb_build_object("
    "'id', gen_random_uuid()))).* FROM usage_records r WHERE {closed}",
    "insert into the partition": "INSERT INTO {partition} SELECT (jsonb_populate_record(r, jsonb_build_object("
    "'id', gen_random_uuid()))).* FROM {partition} r",
    "move in": "UPDATE usage_records SET \"timestamp\" = '{moment}' WHERE NOT {closed}",
    "move out": 'UPDATE usage_records SET "timestamp" = now() WHERE {closed}',
    "empty": "TRUNCATE usage_records",
    "empty the partition": "TRUNCATE {partition}",
    "rollup": "UPDATE usage_rollups SET requests = 9 WHERE hour < '{end}'",
    "rollup moved in": "UPDATE usage_rollups SET hour = '{moment}' WHERE hour >= '{end}'",
    "rollup deleted": "DELETE FROM usage_rollups WHERE hour < '{end}'",
    "rollup inserted": "INSERT INTO usage_rollups SELECT (jsonb_populate_record(r, jsonb_build_object("
    "'id', 0, 'hour', '{moment}'::timestamptz))).* FROM usage_rollups r WHERE hour >= '{end}'",
    "rollups emptied": "TRUNCATE usage_rollups",
    "day": "UPDATE usage_daily_rollups SET requests = 9 WHERE day < '{end}'",
    "day moved in": "UPDATE usage_daily_rollups SET day = '{moment}' WHERE day >= '{end}'",
    "day deleted": "DELETE FROM usage_daily_rollups WHERE day < '{end}'",
    "day inserted": "INSERT INTO usage_daily_rollups SELECT (jsonb_populate_record(r, jsonb_build_object("
    "'id', 0, 'day', '{moment}'::date))).* FROM usage_daily_rollups r WHERE day >= '{end}'",
    "days emptied": "TRUNCATE usage_daily_rollups",
    "quota period": "UPDATE quota_periods SET used = 0 WHERE month < '{end}'",
    "quota period deleted": "DELETE FROM quota_periods WHERE month < '{end}'",
    "quota periods emptied": "TRUNCATE quota_periods",
    "reopen": "DELETE FROM closed_months",
    "change": "UPDATE closed_months SET closed_by = 'me'",
    "forget": "TRUNCATE closed_months",
}


@pytest.fixture
def words(market: Market, closed: journal.Entry) -> dict[str, str]:
    """A closed month and an open one, each with a call, and how a statement names them."""
    market.write(market.entry())
    market.drain()
    moment, end = moment_of(closed.request_id), clock.month_start(market.month)
    return {
        "closed": f"\"timestamp\" < '{end.isoformat()}'",
        "partition": partitions.name_of(last_month()),
        "moment": moment.isoformat(),
        "end": end.isoformat(),
    }


def test_the_database_refuses_every_change_of_a_closed_month(words: dict[str, str]) -> None:
    before = (list(UsageRecord.objects.values()), list(UsageRollup.objects.values()), used())
    for name, statement in OF_THE_CLOSED.items():
        assert refusal(statement.format(**words)) == "MC001", name
    with superuser_cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        for name, statement in OF_THE_CLOSED.items():
            with pytest.raises(Exception, match="the month is closed"):
                cursor.execute(statement.format(**words))
            assert name
    assert (list(UsageRecord.objects.values()), list(UsageRollup.objects.values()), used()) == before


def test_days_that_are_added_up_by_their_migration_are_closed_as_their_month_is(
    words: dict[str, str],
) -> None:
    before = sorted(
        map(str, DailyUsageRollup.objects.values_list("day", "requests", "total_tokens", "cost_amount"))
    )
    with superuser_cursor() as cursor:
        for name in ("insert", "update", "delete", "emptied"):
            cursor.execute(f"DROP TRIGGER closed_months_{name} ON usage_daily_rollups")
        cursor.execute("DELETE FROM usage_daily_rollups")
    with transaction.atomic(), connection.cursor() as cursor:
        # It is from before days named a service that must be there.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute(import_module("metering.migrations.0008_usage_by_day").FILL)
    found = sorted(
        map(str, DailyUsageRollup.objects.values_list("day", "requests", "total_tokens", "cost_amount"))
    )
    assert found == before
    assert len(found) == 2
    for name, statement in OF_THE_CLOSED.items():
        if name.startswith("day"):
            assert refusal(statement.format(**words)) == "MC001", name


def test_the_open_month_stays_open(words: dict[str, str]) -> None:
    for statement in (
        "UPDATE usage_records SET duration_ms = 9 WHERE NOT {closed}",
        "UPDATE usage_rollups SET duration_ms = 9 WHERE hour >= '{end}'",
        "UPDATE usage_daily_rollups SET duration_ms = 9 WHERE day >= '{end}'",
        "UPDATE quota_periods SET granted = 9 WHERE month >= '{end}'::date",
    ):
        assert refusal(statement.format(**words)) == ""


def waits_for_a_lock() -> bool:
    with superuser_cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool((cursor.fetchone() or (0,))[0])


def in_thread(work: Any) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_closing_waits_for_whoever_writes_and_counts_what_they_wrote(market: Market) -> None:
    market.write(market.entry(request_id=id_of_last_month()))
    market.drain()
    with transaction.atomic():
        positions.append(market.shard, [])
        closing = in_thread(close)
        wait_for(waits_for_a_lock)
        ledger.prepare()
        encoded = journal.encode(market.entry(request_id=id_of_last_month()))
        ledger.merge([Reader().read(market.shard, b"1-0", [b"e", encoded, b"s", b"lease"])])
    closing.join(10)
    assert ClosedMonth.objects.get().records == 2


def test_a_drain_waits_for_closing_and_makes_a_correction_of_what_came_too_late(market: Market) -> None:
    market.write(market.entry(request_id=id_of_last_month()))
    market.drain()
    late = market.entry(request_id=id_of_last_month())
    with transaction.atomic():
        closed_months.hold_writers()
        market.write(late)
        draining = in_thread(market.drain)
        wait_for(waits_for_a_lock)
        closed_months.freeze(last_month(), closed_by="anna")
    draining.join(10)
    assert ClosedMonth.objects.get().records == 1
    assert corrections() == [(late.request_id, late.request_id, "success", 30, Decimal("0.003"))]
    assert letters() == []


def test_a_batch_that_no_journal_brought_stands_in_the_outbox_between_the_drains_own(market: Market) -> None:
    market.write(market.entry())
    market.drain()
    added = uuid7()
    with transaction.atomic():
        positions.append(market.shard, [added])
    market.write(market.entry())
    market.drain()

    batches = JournalBatch.objects.filter(shard=market.shard).order_by("number")
    assert [batch.number for batch in batches] == [1, 2, 3]
    assert batches[1].record_ids == [added]


@pytest.mark.parametrize(
    "midnight",
    [dt.datetime(2028, 2, 1), dt.datetime(2028, 3, 1), dt.datetime(2028, 1, 1)],  # noqa: DTZ001 - given one below
    ids=["31 January", "29 February", "31 December"],
)
def test_the_last_millisecond_of_a_month_in_utc_wherever_the_caller_is(
    market: Market, midnight: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In UTC+14 it is two in the afternoon of the next day by then, and the month is still the old one."""
    kiritimati = dt.timezone(dt.timedelta(hours=14))
    last = midnight.replace(hour=14, tzinfo=kiritimati) - dt.timedelta(milliseconds=1)
    now = midnight.replace(tzinfo=dt.UTC) + dt.timedelta(hours=2)
    monkeypatch.setattr(clock, "now", lambda: now)
    monkeypatch.setattr(clock, "now_ms", lambda: int(now.timestamp() * 1000))

    def call(after_ms: int, **fields: Any) -> journal.Entry:
        return market.entry(request_id=uuid7(int(last.timestamp() * 1000) + after_ms), **fields)

    market.write(call(0), call(1), call(0, cost="0.1"))
    market.drain()
    closed = close()
    assert (closed.month, clock.next_month(closed.month)) == (clock.month_of(last), midnight.date())
    assert (closed.records, closed.totals) == (2, {"USD": "0.103"})

    late = call(0)
    market.write(late, call(1), how="late")
    market.drain()
    assert corrections() == [(late.request_id, late.request_id, "success", 30, Decimal("0.003"))]
    assert clock.month_of(UsageRecord.objects.get(kind="correction").timestamp) == midnight.date()
    assert used() == {closed.month: 60, midnight.date(): 60}
    assert_books_agree()
