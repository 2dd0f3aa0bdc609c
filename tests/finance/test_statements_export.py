"""Statements of whole months as one file: the ledger to the last digit, and nothing of half a month."""

import csv
import datetime as dt
import io
import json
import zipfile
from decimal import Decimal
from pathlib import Path

import pytest
from pypdf import PdfReader

from common import clock
from finance import exports, statement_pdf
from finance.charges import sum_of
from finance.errors import RangeRefused
from finance.models import ExportJob
from finance.statements import Statement, statement
from finance.tasks import run_export
from metering import partitions
from metering.corrections import Amounts, correct
from tests import factories
from tests.console import console, operator
from tests.ledger_rows import Calls
from tests.metering.market import Market
from tests.metering.test_closed_months import close, id_of_last_month

COSTS = ("0.0015", "0.000000000000000001", "12345678901234567890.123456789012345678")
LAST, THIS = (dt.datetime(2024, month, 1, tzinfo=clock.UTC) for month in (2, 3))


def ordered(start: dt.datetime = LAST, end: dt.datetime = THIS) -> ExportJob:
    return exports.order(format="statements", start=start, end=end, actor="anna")


@pytest.fixture
def ledger(committed: None) -> Calls:
    """Two consumers' calls of February, one of them in its last millisecond, and one of March."""
    partitions.make([LAST.date(), THIS.date()])
    calls = Calls(factories.make_service())
    other = Calls(calls.service, factories.make_consumer("=cmd|'"))
    for cost in COSTS:
        calls.record(at=LAST + dt.timedelta(hours=1), cost=cost)
    other.record(at=THIS - dt.timedelta(milliseconds=1), cost="7")
    calls.record(at=THIS, cost="1")
    return calls


def test_every_consumer_has_a_statement_and_their_list_adds_up_to_the_ledger(ledger: Calls) -> None:
    job = ordered()
    run_export(str(job.id))
    job.refresh_from_db()
    assert (job.state, job.rows_done) == (ExportJob.State.DONE, 4)
    file = exports.file_of(job)
    assert file is not None
    assert job.manifest is not None
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        rows = list(csv.DictReader(io.StringIO(archive.read("statements.csv").decode())))
        assert {*archive.namelist()} == {"statements.csv", *(row["file"] for row in rows)}
        texts = [PdfReader(io.BytesIO(archive.read(row["file"]))).pages[0].extract_text() for row in rows]
    assert len(rows) == 2
    assert {row["month"] for row in rows} == {f"{LAST:%Y-%m}"}
    assert sum_of(Decimal(row["recorded"]) for row in rows) == Decimal(job.manifest["totals"]["USD"])
    payable = {row["consumer_id"]: row["payable"] for row in rows}
    assert payable[str(ledger.key.consumer_id)] == "12345678901234567890.12"
    assert {row["consumer"] for row in rows} == {ledger.key.consumer.name, "'=cmd|'"}
    # A cell may take two lines for as much.
    assert "12,345,678,901,234,567,890.12USD" in "".join("".join(texts).split())


def test_a_statement_is_the_consoles_line_by_line(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """Late calls of a closed month, a correction of other amounts, and a call that was not charged."""
    month, by_request = market.month, market.service.publish_price(factories.PER_REQUEST)
    entry = market.entry()
    market.write(
        entry,
        market.entry(status="error", usage_source="none", prompt_tokens=0, completion_tokens=0, cost="0"),
    )
    close()
    late = {"request_id": id_of_last_month(), "price_version_id": by_request.id, "cost": "0.01"}
    market.write(market.entry(**late), market.entry(request_id=id_of_last_month(), cached_tokens=3))
    market.drain()
    correct(market.record(entry), Amounts(prompt_tokens=-1, cost=Decimal("-0.001")), note="x", actor="anna")
    rendered: list[Statement] = []
    render = statement_pdf.render

    def seen(found: Statement) -> bytes:
        rendered.append(found)
        return render(found)

    monkeypatch.setattr(statement_pdf, "render", seen)
    start, end = clock.month_start(month), clock.month_start(clock.next_month(month))
    monkeypatch.setattr(clock, "now", lambda: end)
    run_export(str(ordered(start, end).id))
    assert [found.accounts for found in rendered] == [statement(market.consumer, month).accounts]


@pytest.mark.parametrize(
    ("start", "end"),
    [(LAST + dt.timedelta(days=1), THIS), (LAST, THIS - dt.timedelta(days=1)), (LAST, THIS.replace(year=8000))],
)  # fmt: skip
@pytest.mark.django_db
def test_half_a_month_has_no_statement(start: dt.datetime, end: dt.datetime) -> None:
    with pytest.raises(RangeRefused):
        ordered(start, end)
    days = {"first": f"{start:%Y-%m-%d}", "last": f"{end - dt.timedelta(days=1):%Y-%m-%d}"}
    client = console(operator("finance"))
    answer = client.post("/admin/finance/exportjob/add/", {"format": "statements", **days})
    assert "Statements are of whole months" in answer.content.decode()
    assert not ExportJob.objects.exists()


def test_one_that_is_cancelled_meanwhile_leaves_nothing(
    ledger: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ordered()
    render = statement_pdf.render

    def cancelled_meanwhile(found: Statement) -> bytes:
        exports.cancel(job, actor="anna")
        return render(found)

    monkeypatch.setattr(exports, "_TELL_EVERY", 0)
    monkeypatch.setattr(statement_pdf, "render", cancelled_meanwhile)
    run_export(str(job.id))
    job.refresh_from_db()
    assert job.state == ExportJob.State.CANCELLED
    assert not Path(job.folder).exists()
    assert json.dumps(job.manifest) == "null"
