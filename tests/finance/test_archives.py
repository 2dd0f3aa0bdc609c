"""Closed months in the archive: nothing is lost, changed or counted again on the way, wherever it is killed."""

import datetime as dt
import json
import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from pyarrow import parquet
from pytest_django import Settings

from common import clock, crash
from common.ids import uuid7
from finance import archives, books, exports, last_export, reconciliation, reports
from finance.archive_files import facts
from finance.errors import ArchiveRefused
from finance.models import ArchiveStep, ExportJob, ReportDelivery
from finance.snapshot import one_moment
from finance.tasks import archive_usage, run_export, send_reports
from metering import archived, closed_months, corrections, explorer, journal, partitions, usage
from metering.archived import UsageArchived
from metering.corrections import Amounts, CorrectionRefused
from metering.erasure import Erasure
from metering.models import ArchivedRequests, ClosedMonth, UsageRecord
from tests.console import console, operator
from tests.finance.test_reports import schedule
from tests.harness.sessions import wait_until_free
from tests.harness.waiting import wait_for
from tests.metering.market import Market, letters, metadata
from tests.metering.test_closed_months import (
    OF_THE_CLOSED,
    assert_books_agree,
    close,
    id_of_last_month,
    in_thread,
    last_month,
    refusal,
    waits_for_a_lock,
)


@pytest.fixture(autouse=True)
def archive_folder(tmp_path: Path, settings: Settings) -> Path:
    settings.ARCHIVE_DIR = tmp_path / "archive"
    settings.ARCHIVE_AFTER_MONTHS = settings.ARCHIVE_DROP_AFTER_DAYS = None
    return tmp_path / "archive"


@pytest.fixture
def calls(market: Market) -> Iterator[dict[str, journal.Entry]]:
    """Calls of last month, which is closed: settled ones of odd content, and one that was voided. One of this month."""
    entries = {
        "plain": market.entry(request_id=id_of_last_month()),
        "wide": market.entry(
            request_id=id_of_last_month(), cost="12345678901234567890.123456789012345678", cache_write_tokens=7,
            metadata=metadata(b'{"a": "\\"x\\\\\\n,\\t\\u00fc", "b": "", "c": null}'),
        ),
        "failed": market.entry(request_id=id_of_last_month(), status="error", error="upstream_error", currency="EUR"),
        "voided": market.entry(request_id=id_of_last_month()),
        "of this month": market.entry(),
    }  # fmt: skip
    market.write(market.unsettled(request_id=entries["voided"].request_id), how="reaped")
    market.write(*[entry for name, entry in entries.items() if name != "voided"])
    market.drain()
    corrections.void(market.record(entries["voided"]), note="lost", actor="anna")
    close()
    yield entries
    with connection.cursor() as cursor:  # the next test's drain makes it anew
        cursor.execute(f"DROP TABLE IF EXISTS {partitions.name_of(last_month())}")


def archive() -> ArchiveStep:
    return archives.archive(last_month(), by="anna")


def drop() -> ArchiveStep:
    return archives.drop(last_month(), by="anna")


def steps() -> list[str]:
    return list(ArchiveStep.objects.order_by("id").values_list("step", flat=True))


def in_ledger() -> list[Any]:
    start, end = clock.month_start(last_month()), clock.month_start(clock.next_month(last_month()))
    return [*UsageRecord.objects.filter(timestamp__gte=start, timestamp__lt=end).order_by("id").values()]


def test_metadata_that_was_erased_does_not_come_back_out_of_a_file(
    calls: dict[str, journal.Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a month that was restored for it, here while it is being taken out again."""
    archive()
    drop()
    archives.restore(last_month(), by="anna")
    detach = partitions.detach

    def erased_meanwhile(month: dt.date) -> None:
        erasure = Erasure(calls["wide"].consumer_id, month, clock.now().date())
        assert erasure.erase(actor="anna") == 1
        detach(month)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(partitions, "detach", erased_meanwhile)
        archive()
    with pytest.raises(ArchiveRefused, match="archive it again"):
        drop()
    again = archive()
    assert parquet.read_table(archives.file_of(again)).column("metadata").to_pylist() == [None] * 4
    drop()
    archives.restore(last_month(), by="anna")
    assert [row["metadata"] for row in in_ledger()] == [None] * 4


def test_a_month_goes_and_comes_back_as_it_was(calls: dict[str, journal.Entry], archive_folder: Path) -> None:
    before = in_ledger()
    done = archive()
    assert (done.step, done.rows) == ("detached", 4)
    assert done.totals == {"EUR": "0.003", "USD": "12345678901234567890.126456789012345678"}
    assert (in_ledger(), UsageRecord.objects.count()) == ([], 2)

    manifest = json.loads((archive_folder / f"{done.file}.manifest.json").read_text())
    assert manifest == done.manifest
    assert (manifest["rows_by_kind"], manifest["schema_version"]) == ({"usage": 4}, 1)
    assert (manifest["tokens"]["prompt_tokens"], manifest["tokens"]["cache_write_tokens"]) == (30, 7)
    assert [version["rows"] for version in manifest["price_versions"]] == [4]
    table = parquet.read_table(archive_folder / done.file)
    assert [row["cost_amount"] for row in table.to_pylist()] == [row["cost_amount"] for row in before]
    assert table.schema.metadata[b"schema_version"] == b"1"

    assert drop().step == "dropped"
    assert not partitions.exists(last_month())
    assert archives.restore(last_month(), by="anna").step == "restored"
    assert in_ledger() == before
    assert_books_agree()
    words = {"closed": f"\"timestamp\" < '{clock.month_start(clock.month_of(clock.now())).isoformat()}'"}
    for name in ("update", "delete"):
        assert refusal(OF_THE_CLOSED[name].format(**words)) == "MC001"

    assert archive().step == "detached"
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE usage_records ADD COLUMN later_on int DEFAULT 7")
    try:
        drop()
        archives.restore(last_month(), by="anna")  # its file knows nothing of the column
        assert in_ledger() == before
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE usage_records DROP COLUMN later_on")

    assert archive().step == "detached"
    assert archives.restore(last_month(), by="anna").step == "restored"  # its table was still there
    assert in_ledger() == before
    gone_and_back = ["detached", "dropped", "restored"]
    assert steps() == ["written", *gone_and_back, *gone_and_back, "detached", "restored"]


@pytest.mark.parametrize("where", ["detached", "dropped", "restored"])
def test_what_comes_late_for_it_is_counted_as_of_a_closed_month(
    where: str, calls: dict[str, journal.Entry], market: Market
) -> None:
    archive()
    if where != "detached":
        drop()
    if where == "restored":
        archives.restore(last_month(), by="anna")
    before = UsageRecord.objects.count()
    duplicates = [calls[name] for name in ("plain", "wide", "failed", "of this month")]
    market.write(*duplicates, *duplicates, how="replay")
    market.write(*(market.unsettled(request_id=call.request_id) for call in calls.values()), how="reaped")
    market.drain()
    assert (UsageRecord.objects.count(), letters()) == (before, [])

    never_seen = market.entry(request_id=id_of_last_month())
    market.write(calls["voided"], never_seen, calls["voided"], never_seen, how="late")
    market.drain()
    market.write(calls["voided"], never_seen, how="late")
    market.drain()
    late = UsageRecord.objects.filter(kind="correction", status="success")
    assert sorted((row.corrects, row.cost_amount, clock.month_of(row.timestamp)) for row in late) == sorted(
        (entry.request_id, Decimal("0.003"), market.month) for entry in (calls["voided"], never_seen)
    )
    assert letters() == []

    others = [market.entry(request_id=calls[name].request_id, cost="9") for name in ("plain", "voided")]
    market.write(
        *others, market.entry(request_id=calls["plain"].request_id, cache_write_tokens=1), how="late"
    )
    market.drain()
    assert [reason for reason, _ in letters()] == ["conflict"] * 3
    assert UsageRecord.objects.count() == before + 2
    assert partitions.is_attached(last_month()) == (where == "restored")
    with one_moment() as moment:
        assert books.compare(moment, [market.month])[1] == []


def test_a_call_whose_settle_was_archived_with_a_later_month_counts_as_settled(
    calls: dict[str, journal.Entry], market: Market
) -> None:
    """Of an archived month itself, or one of which nothing but the settle was ever seen."""
    settle = market.entry(request_id=uuid7(int(clock.month_start(last_month()).timestamp() * 1000) - 1))
    market.write(settle, how="late")
    market.drain()
    assert UsageRecord.objects.get(corrects=settle.request_id).kind == "correction"
    archived.remember(last_month(), partitions.name_of(market.month))  # as if this month were that one
    UsageRecord.objects.filter(corrects=settle.request_id).delete()

    market.write(settle, how="replay")
    market.write(market.entry(request_id=settle.request_id, cost="9"), how="replay")
    market.drain()
    assert not UsageRecord.objects.filter(corrects=settle.request_id).exists()
    assert [reason for reason, _ in letters()] == ["conflict"]


def test_all_requests_are_remembered_however_many(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archived, "_REMEMBER", archived._REMEMBER.replace("/ 2000", "/ 3"))
    month = dt.date(2020, 1, 1)
    ClosedMonth.objects.create(month=month)
    entries = [market.entry() for _ in range(10)]
    market.write(*entries)
    market.drain()
    archived.remember(month, "usage_records")
    archived.remember(month, "usage_records")

    assert ArchivedRequests.objects.count() == 4
    found = archived.known([*(entry.request_id for entry in entries), uuid7(), uuid7(0)])
    assert {id_: each.is_settled for id_, each in found.items()} == {
        entry.request_id: True for entry in entries
    }
    for statement in ("DELETE FROM archived_requests", "UPDATE archived_requests SET month = now()"):
        assert refusal(statement) == "MC001"


def killed(point: str) -> None:
    """A child of ours that archives dies at this point."""
    connection.close()
    child = os.fork()
    if child == 0:
        crash.arm(point)
        try:
            archive()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    wait_until_free(archives._LOCK)


def test_killed_anywhere_it_goes_on(calls: dict[str, journal.Entry], archive_folder: Path) -> None:
    before = in_ledger()
    for point, recorded in (
        ("archive-written", []), ("archive-compared", []), ("archive-recorded", ["written"]),
        ("archive-detached", ["written"]),
    ):  # fmt: skip
        killed(point)
        assert steps() == recorded
    assert archive().step == "detached"
    assert archive().step == "detached"
    assert steps() == ["written", "detached"]
    assert sorted(file.suffix for file in archive_folder.iterdir()) == [".json", ".parquet"]
    archives.restore(last_month(), by="anna")
    assert in_ledger() == before


def test_who_reads_one_moment_keeps_the_month_and_whose_detaching_was_cut_is_finished(
    calls: dict[str, journal.Entry],
) -> None:
    refused: list[str] = []

    def detach() -> None:
        try:
            archive()
        except DatabaseError as error:
            refused.append(str(error))

    with one_moment() as moment, one_moment() as later:
        assert archived.months_away(moment) == []
        archiving = in_thread(detach)
        wait_for(waits_for_a_lock)
        assert not partitions.is_attached(last_month())  # for everybody who comes now
        assert facts(moment, "usage_records")["rows"] == 6
        assert archived.months_away(moment) == []
        assert archived.months_away(later) == [last_month()]  # it began to read just now
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%DETACH PARTITION%CONCURRENTLY'"
            )
        archiving.join(10)
    assert (len(refused), steps()) == (1, ["written"])
    with pytest.raises(ArchiveRefused):
        drop()

    assert archive().step == "detached"
    with one_moment() as moment:
        assert archived.months_away(moment) == [last_month()]


def test_only_a_closed_month_whose_books_agree_is_archived(market: Market) -> None:
    entry = market.entry(request_id=id_of_last_month())
    market.write(entry, market.entry())
    market.drain()
    for month in (last_month(), market.month):
        with pytest.raises(ArchiveRefused, match="not closed"):
            archives.archive(month, by="anna")
    with transaction.atomic():
        closed_months.hold_writers()
        closed_months.freeze(last_month(), closed_by="anna")
    table = partitions.name_of(last_month())
    with connection.cursor() as cursor:  # as nobody can who does not own the table
        cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER closed_month")
        cursor.execute(f"UPDATE {table} SET cost_amount = 1")  # noqa: S608 - a constant
    with pytest.raises(ArchiveRefused, match="books differ"):
        archive()
    assert (steps(), partitions.is_attached(last_month())) == ([], True)
    empty = clock.month_of(clock.month_start(last_month()) - dt.timedelta(days=1))
    ClosedMonth.objects.create(month=empty)
    with pytest.raises(ArchiveRefused, match="no rows"):
        archives.archive(empty, by="anna")


def test_a_file_that_is_not_what_was_written_is_written_again_while_there_is_a_table(
    calls: dict[str, journal.Entry], archive_folder: Path
) -> None:
    done = archive()
    file = archives.file_of(done)
    good = file.read_bytes()
    file.write_bytes(good[:-1])
    with pytest.raises(ArchiveRefused, match="not what was written"):
        drop()
    assert archive().step == "detached"
    drop()
    good = file.read_bytes()
    file.unlink()
    for attempt in (archive, lambda: archives.restore(last_month(), by="anna")):
        with pytest.raises(ArchiveRefused, match="gone"):
            attempt()
    file.write_bytes(good)
    assert archives.restore(last_month(), by="anna").step == "restored"
    with pytest.raises(ArchiveRefused):
        archives.restore(last_month(), by="anna")


def test_who_asks_for_rows_is_told_and_rollups_answer_as_before(
    calls: dict[str, journal.Entry], market: Market
) -> None:
    first, now = last_month(), clock.now()
    question = explorer.Question(first, now.date(), "month")
    asked = (explorer.totals(question), explorer.rows(question))
    used = usage.usage_statistics(consumer_id=market.consumer.id, service_id=market.service.id, days=62)
    span: dict[str, Any] = {"start": clock.month_start(first), "end": now}
    ordered, exported = (exports.order(format="csv", actor="anna", **span) for _ in range(2))
    run_export(str(exported.id))
    record = market.record(calls["plain"])
    archive()

    assert (explorer.totals(question), explorer.rows(question)) == asked
    again = usage.usage_statistics(consumer_id=market.consumer.id, service_id=market.service.id, days=62)
    assert again == used
    run_export(str(ordered.id))
    ordered.refresh_from_db()
    assert (ordered.state, f"Rows of {first:%Y-%m} are in the archive" in ordered.error) == (
        ExportJob.State.FAILED, True,
    )  # fmt: skip
    with pytest.raises(UsageArchived):
        exports.order(format="csv", actor="anna", **span)
    exports.order(format="csv", actor="anna", start=clock.month_start(market.month), end=now)
    with pytest.raises(UsageArchived):
        reconciliation.reconcile(asked_by="anna", months=[first])
    with pytest.raises(CorrectionRefused, match="are in the archive"):
        corrections.correct(record, Amounts(cost=Decimal(1)), note="more", actor="anna")
    with one_moment() as moment:
        assert last_export.compare(moment) == []

    client = console(operator("finance"))
    told = f"Rows of {first:%Y-%m} are in the archive"
    assert told in client.get("/admin/metering/usagerecord/").content.decode()
    form = {"format": "csv", "first": f"{first}", "last": f"{now:%Y-%m-%d}", "consumer": ""}
    assert told in client.post("/admin/finance/exportjob/add/", form).content.decode()
    assert "in a table beside it" in client.get("/admin/finance/archivestep/").content.decode()


def test_a_report_of_an_archived_month_waits_for_a_person_and_keeps_no_other_waiting(
    calls: dict[str, journal.Entry],
) -> None:
    archive()
    for first in (last_month(), clock.month_of(clock.month_start(last_month()) - dt.timedelta(days=1))):
        schedule(name=f"since {first}", first_month=first).save()
    send_reports()
    before, *archived_months = ReportDelivery.objects.order_by("month", "id")
    assert (before.state, before.job is None) == (ReportDelivery.State.WAITING, False)
    assert {(delivery.month, delivery.state) for delivery in archived_months} == {
        (last_month(), ReportDelivery.State.FAILED)
    }
    assert "in the archive" in archived_months[0].error
    archives.restore(last_month(), by="anna")
    assert reports.send_again(archived_months[0])
    send_reports()
    archived_months[0].refresh_from_db()
    assert archived_months[0].job is not None


def test_by_itself_only_what_settings_say_and_never_what_somebody_restored(
    calls: dict[str, journal.Entry], settings: Settings
) -> None:
    archive_usage()
    settings.ARCHIVE_AFTER_MONTHS = 1
    archive_usage()
    assert steps() == []
    settings.ARCHIVE_AFTER_MONTHS = 0
    archive_usage()
    archive_usage()
    assert steps() == ["written", "detached"]
    settings.ARCHIVE_DROP_AFTER_DAYS = 1
    archive_usage()
    settings.ARCHIVE_DROP_AFTER_DAYS = 0
    archive_usage()
    archives.restore(last_month(), by="anna")
    archive_usage()
    assert steps() == ["written", "detached", "dropped", "restored"]

    finance = operator("finance")
    finance.email = "finance@x.example"
    finance.save()
    ClosedMonth.objects.create(month=dt.date(2020, 1, 1), records=1)
    archive_usage()
    assert [letter.to for letter in mail.outbox] == [[finance.email]]
    assert "2020-01: the month's rows are neither in the ledger nor" in mail.outbox[0].body


def test_the_command_archives_lists_drops_and_restores(
    calls: dict[str, journal.Entry], capsys: pytest.CaptureFixture[str]
) -> None:
    month = f"{last_month():%Y-%m}"
    for verb, step in (("archive", "detached"), ("drop", "dropped"), ("restore", "restored")):
        call_command("partitions", verb, month)
        assert f"{month} {step}" in capsys.readouterr().out
    call_command("partitions", "list")
    assert f"{month} restored" in (told := capsys.readouterr().out)
    assert told.count("\n") == 1
    for arguments in (["drop"], ["drop", month], ["archive", f"{clock.now():%Y-%m}"], ["drop", "x"]):
        with pytest.raises(CommandError):
            call_command("partitions", *arguments)


def test_two_do_not_work_on_the_archive_at_once(calls: dict[str, journal.Entry]) -> None:
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, 0)", [archives._LOCK])
        with pytest.raises(ArchiveRefused, match="somebody else"):
            archive()
        cursor.execute("SELECT pg_advisory_unlock(%s, 0)", [archives._LOCK])
    other.close()
