"""Export jobs: every format is the ledger to the last digit, out of one moment, whatever is killed or cancelled."""

import csv
import datetime as dt
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterable
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.models import Sum
from pyarrow import parquet
from python_calamine import CalamineWorkbook

from common import clock
from common.ids import uuid7
from finance import copying, exports
from finance.errors import RangeRefused
from finance.formats import xlsx
from finance.models import MOST_ATTEMPTS, ExportJob
from finance.snapshot import Lines, Snapshot
from finance.tasks import resume_exports, run_export
from finance.usage_file import read_csv
from metering import partitions
from metering.models import UsageRecord
from tests import factories
from tests.harness.servers import ROOT
from tests.harness.sessions import wait_until_free
from tests.ledger_rows import Calls
from tests.metering.market import Market, database_url
from tests.telling import told_by_the_application

#: Costs that no float holds, and one at the ledger's full width.
COSTS = ("0.003", "0.000000000000000001", "12345678901234567890.123456789012345678", "-0.1", "0.1")


def ordered(fmt: str = "csv", **fields: Any) -> ExportJob:
    now = clock.now()
    span = {"start": now - dt.timedelta(days=1), "end": now + dt.timedelta(days=1)}
    return exports.order(format=fmt, actor="anna", **{**span, **fields})


def done(fmt: str = "csv", **fields: Any) -> tuple[ExportJob, Path]:
    job = ordered(fmt, **fields)
    run_export(str(job.id))
    job.refresh_from_db()
    assert job.state == ExportJob.State.DONE, job.error
    file = exports.file_of(job)
    assert file is not None
    return job, file


def rows_of(file: Path) -> list[dict[str, Any]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(read_csv(lines))


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return sum(amounts, Decimal(0))


@pytest.fixture
def ledger(committed: None) -> Calls:
    """Five calls at costs of every width."""
    calls = Calls(factories.make_service())
    for cost in COSTS:
        calls.record(cost=cost)
    return calls


def test_csv_gives_back_every_row_and_the_manifest_its_sums(ledger: Calls) -> None:
    job, file = done()
    rows = rows_of(file)
    assert [(row["record_id"], row["cost"]) for row in rows] == [
        (str(record.id), record.cost_amount) for record in UsageRecord.objects.order_by("id")
    ]
    assert rows[0] == {
        "timestamp": UsageRecord.objects.order_by("id")[0].timestamp,
        "request_id": rows[0]["record_id"], "record_id": rows[0]["record_id"], "kind": "usage", "corrects": "",
        "consumer_id": str(ledger.key.consumer_id), "consumer": ledger.key.consumer.name,
        "service_id": str(ledger.service.id), "service": str(ledger.service), "api_key_id": str(ledger.key.id),
        "tier": "enterprise", "status": "success", "error": "", "settlement": "lease", "duration_ms": 100,
        "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0, "reasoning_tokens": 0,
        "cache_write_tokens": 0, "audio_prompt_tokens": 0, "audio_completion_tokens": 0, "total_tokens": 15,
        "usage_source": "reported", "cost": Decimal("0.003"), "currency": "USD",
        "price_version_id": str(ledger.service.price_versions.get().id),
    }  # fmt: skip
    total = UsageRecord.objects.aggregate(total=Sum("cost_amount"))["total"]
    manifest = json.loads((job.folder / "manifest.json").read_text())
    assert manifest == job.manifest
    assert manifest["rows"] == 5
    assert {currency: Decimal(text) for currency, text in manifest["totals"].items()} == {"USD": total}
    assert manifest["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert [(version["rows"], version["pricing"]) for version in manifest["price_versions"]] == [
        (5, factories.PER_TOKEN)
    ]


def test_parquet_has_the_ledgers_total_to_the_last_digit(ledger: Calls) -> None:
    job, file = done("parquet")
    table = parquet.read_table(file).to_pylist()
    assert job.manifest is not None
    assert [row["cost"] for row in table] == [Decimal(cost) for cost in COSTS]
    assert exact_sum(row["cost"] for row in table) == Decimal(job.manifest["totals"]["USD"])
    assert table[0]["timestamp"] == UsageRecord.objects.order_by("id")[0].timestamp
    assert table[0]["corrects"] == ""


def test_xlsx_splits_its_sheets_and_keeps_every_digit(ledger: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "SHEET_ROWS", 3)
    job, file = done("xlsx")
    sheets = [sheet.to_python() for sheet in sheets_of(file)]
    assert [len(sheet) for sheet in sheets] == [3, 3, 2]
    assert all(sheet[0] == sheets[0][0] for sheet in sheets)
    place = sheets[0][0].index("cost")
    cells = [row[place] for sheet in sheets for row in sheet[1:]]
    assert cells[2] == "12345678901234567890.123456789012345678"
    assert job.manifest is not None
    assert exact_sum(Decimal(str(cell)) for cell in cells) == Decimal(job.manifest["totals"]["USD"])


def sheets_of(file: Path) -> list[Any]:
    book = CalamineWorkbook.from_path(str(file))
    return [book.get_sheet_by_name(name) for name in book.sheet_names]


@pytest.mark.parametrize("fmt", ["csv", "xlsx", "parquet"])
def test_a_range_without_rows_is_a_file_with_a_head(fmt: str, committed: None) -> None:
    job, _ = done(fmt)
    assert job.manifest is not None
    assert (job.manifest["rows"], job.manifest["totals"]) == (0, {})


@pytest.mark.parametrize(
    "name", ["=HYPERLINK(1)", "'=already", "+1", "-1", "@x", "\tx", "\rx", 'quote " and, comma']
)
def test_names_that_a_spreadsheet_would_run_come_back_the_same(name: str, committed: None) -> None:
    calls = Calls(factories.make_service(), factories.make_consumer(name))
    calls.record()
    _, file = done()
    with file.open(newline="", encoding="utf-8") as lines:
        cell = next(csv.DictReader(lines))["consumer"]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert rows_of(file)[0]["consumer"] == name


def test_a_range_ends_before_its_end_and_now(committed: None) -> None:
    calls = Calls(factories.make_service())
    start = clock.now() - dt.timedelta(minutes=10)
    end = start + dt.timedelta(minutes=5)
    inside = [
        calls.record(at=start + dt.timedelta(milliseconds=1)),
        calls.record(at=end - dt.timedelta(milliseconds=1)),
    ]
    calls.record(at=start - dt.timedelta(milliseconds=1))
    calls.record(at=end + dt.timedelta(milliseconds=1))
    _, file = done(start=start, end=end)
    assert [row["record_id"] for row in rows_of(file)] == [str(record.id) for record in inside]
    assert ordered(end=clock.now() + dt.timedelta(days=9)).end <= clock.now()
    with pytest.raises(RangeRefused):
        ordered(start=end, end=start)


def test_one_consumers_export_holds_nobody_elses_rows(ledger: Calls) -> None:
    other = Calls(ledger.service)
    mine = other.record(cost="7")
    job, file = done(consumer=other.key.consumer)
    assert [row["record_id"] for row in rows_of(file)] == [str(mine.id)]
    assert job.manifest is not None
    assert job.manifest["totals"] == {"USD": "7"}


def test_rows_of_a_consumer_that_is_gone_are_exported_too(market: Market) -> None:
    market.write(market.entry(consumer_id=uuid7()))
    market.drain()
    _, file = done()
    assert [row["consumer"] for row in rows_of(file)] == [""]


def test_what_is_written_meanwhile_is_in_no_part_of_the_file(
    ledger: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = clock.now() - dt.timedelta(minutes=1)
    flush = Lines.flush

    def drained_meanwhile(lines: Lines) -> None:
        ledger.record(at=late, cost="5")
        flush(lines)

    monkeypatch.setattr(Lines, "PIECE", 1)
    monkeypatch.setattr(Lines, "flush", drained_meanwhile)
    job, file = done()
    assert job.manifest is not None
    assert (len(rows_of(file)), job.manifest["rows"]) == (5, 5)
    assert UsageRecord.objects.count() > 5


def test_the_file_says_at_which_position_it_was_made(market: Market) -> None:
    market.write(market.entry())
    market.drain()
    job, _ = done()
    assert job.manifest is not None
    epoch, last_id, batch = job.manifest["positions"][str(market.shard)].split(":")
    assert (epoch, batch) == ("1", "1")
    assert last_id != "0-0"


def test_a_job_is_cancelled_while_it_is_copied(ledger: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "_TELL_EVERY", 0.0)
    job = ordered()
    flush = Lines.flush

    def cancelled_meanwhile(lines: Lines) -> None:
        exports.cancel(job, actor="anna")
        flush(lines)

    monkeypatch.setattr(Lines, "PIECE", 2)
    monkeypatch.setattr(Lines, "flush", cancelled_meanwhile)
    run_export(str(job.id))
    job.refresh_from_db()
    assert (job.state, job.folder.exists(), job.manifest) == (ExportJob.State.CANCELLED, False, None)
    assert not exports.cancel(job, actor="anna")
    actions = told_by_the_application().order_by("id").values_list("actor", "action")
    assert list(actions) == [("anna", "export.ordered"), ("anna", "export.cancelled")]


@pytest.mark.parametrize("point", ["export-copied", "export-written"])
def test_a_job_whose_worker_was_killed_is_begun_anew(point: str, ledger: Calls) -> None:
    job = ordered("parquet")
    worker = "import sys, django; django.setup(); from finance import exports; exports.run(sys.argv[1])"
    killed = subprocess.run(
        [sys.executable, "-c", worker, str(job.id)],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": database_url(),
            "EXPORT_DIR": str(settings.EXPORT_DIR),
            "CRASH_AT": point,
        },
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    job.refresh_from_db()
    assert job.state == ExportJob.State.RUNNING
    assert job.folder.exists()
    wait_until_free(exports._LOCK)

    run_export(str(job.id))

    job.refresh_from_db()
    assert (job.state, job.attempts, job.percent) == (ExportJob.State.DONE, 2, 100)
    assert sorted(file.name for file in job.folder.iterdir()) == ["manifest.json", "usage.parquet"]


def test_two_workers_do_not_work_on_one_job(ledger: Calls) -> None:
    job = ordered()
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [exports._LOCK, str(job.id)])
        run_export(str(job.id))
        cursor.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [exports._LOCK, str(job.id)])
    other.close()
    job.refresh_from_db()
    assert (job.state, job.attempts) == (ExportJob.State.QUEUED, 0)
    run_export(str(job.id))
    run_export(str(job.id))
    job.refresh_from_db()
    assert (job.state, job.attempts) == (ExportJob.State.DONE, 1)


def test_a_job_that_never_ends_well_is_given_up(ledger: Calls) -> None:
    job = ordered()
    ExportJob.objects.filter(id=job.id).update(attempts=MOST_ATTEMPTS, state=ExportJob.State.RUNNING)
    run_export(str(job.id))
    job.refresh_from_db()
    assert (job.state, job.error) == (ExportJob.State.FAILED, "given up after 5 tries")


def test_files_go_when_their_time_is_over(ledger: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finance.tasks.run_export.delay", lambda _: None)
    (kept, _), (stale, _) = done(), done()
    ExportJob.objects.filter(id=stale.id).update(expires_at=clock.now())
    resume_exports()
    stale.refresh_from_db()
    assert (stale.state, stale.folder.exists()) == (ExportJob.State.EXPIRED, False)
    assert exports.file_of(stale) is None
    assert exports.file_of(kept) is not None


def test_what_a_killed_worker_left_of_a_cancelled_job_goes(
    ledger: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finance.tasks.run_export.delay", lambda _: None)
    job, (kept, file) = ordered(), done()
    job.moves(ExportJob.State.RUNNING, of=(ExportJob.State.QUEUED,))
    job.folder.mkdir(parents=True)
    (job.folder / "copied.csv").write_text("usage")
    (job.folder.parent / "lost+found").mkdir()
    exports.cancel(job, actor="anna")
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [exports._LOCK, str(job.id)])
        resume_exports()
        assert job.folder.exists()
        cursor.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [exports._LOCK, str(job.id)])
    other.close()
    resume_exports()
    assert sorted(folder.name for folder in kept.folder.parent.iterdir()) == [str(kept.id), "lost+found"]
    assert exports.file_of(kept) == file


def test_what_was_never_begun_is_put_to_work(ledger: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("finance.tasks.run_export.delay", asked.append)
    job = ordered()
    exports.cancel(ordered(), actor="anna")
    resume_exports()
    assert asked == [str(job.id)]
    run_export(str(uuid.uuid4()))


HOSTILE = ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx", "'x", 'a "b", c\nd', "", "é=")


@pytest.fixture
def many(committed: None, monkeypatch: pytest.MonkeyPatch) -> list[Calls]:
    """Calls of hostile consumers over a month, enough for several sessions; none in some stretches of it."""
    monkeypatch.setattr(copying, "WORTHWHILE", 1)
    now = clock.now()
    partitions.make({clock.month_of(now - dt.timedelta(days=days)) for days in range(31)})
    service = factories.make_service()
    found = [Calls(service, factories.make_consumer(name=name)) for name in HOSTILE]
    for number, calls in enumerate(found):
        for days in (0, 1, 2, 17, 29):
            at = clock.now() - dt.timedelta(days=days, minutes=number)
            calls.record(at=at, cost=COSTS[number % len(COSTS)], error={"code": HOSTILE[number]})
    return found


def over_a_month(**fields: Any) -> dict[str, Any]:
    return {"start": clock.now() - dt.timedelta(days=30), **fields}


def test_several_sessions_write_what_one_does(many: list[Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    job, file = done(**over_a_month())
    assert sorted(path.name for path in job.folder.iterdir()) == ["manifest.json", "usage.csv"]
    rows = rows_of(file)
    records = UsageRecord.objects.order_by("id").select_related("consumer")
    assert [(row["record_id"], row["cost"], row["consumer"], row["error"]) for row in rows] == [
        (str(r.id), r.cost_amount, r.consumer.name, (r.error or {})["code"]) for r in records
    ]
    with file.open(newline="", encoding="utf-8") as lines:
        starts = {cell[:1] for row in csv.DictReader(lines) for cell in (row["consumer"], row["error"])}
    assert starts == {"'", "a", "é", "", "O"}  # nobody is without a name
    monkeypatch.setattr(copying, "WORTHWHILE", 1000)
    _, alone = done(**over_a_month(end=job.end))
    assert alone.read_bytes() == file.read_bytes()
    consumer = many[0].key.consumer
    monkeypatch.setattr(copying, "WORTHWHILE", 1)
    assert len(rows_of(done(consumer=consumer, **over_a_month())[1])) == 5


def test_several_sessions_see_one_moment(many: list[Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Snapshot.shared

    def drained_meanwhile(ledger: Snapshot) -> str:
        many[0].record(at=clock.now() - dt.timedelta(days=3))
        return shared(ledger)

    monkeypatch.setattr(Snapshot, "shared", drained_meanwhile)
    job, file = done(**over_a_month())
    assert job.manifest is not None
    assert len(rows_of(file)) == job.manifest["rows"] == UsageRecord.objects.count() - 1


def test_where_one_session_fails_or_nobody_wants_the_file_the_others_stop(
    many: list[Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ordered(**over_a_month())
    flush = Lines.flush

    def lost(lines: Lines) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise OSError("the disk is full")
        flush(lines)

    monkeypatch.setattr(Lines, "flush", lost)
    with pytest.raises(OSError, match="full"):
        run_export(str(job.id))
    monkeypatch.setattr(Lines, "flush", flush)

    def cancelled_meanwhile(_: Any) -> None:
        exports.cancel(job, actor="anna")
        connection.close()  # this thread's own

    monkeypatch.setattr(exports, "_TELL_EVERY", 0.0)
    monkeypatch.setattr(copying._Copy, "_work", cancelled_meanwhile)
    run_export(str(job.id))
    job.refresh_from_db()
    assert (job.state, job.folder.exists()) == (ExportJob.State.CANCELLED, False)
