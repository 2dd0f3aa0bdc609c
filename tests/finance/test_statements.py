"""Statements add up to ledger and to what is payable, open to their rows, and let no name do anything."""

import datetime as dt
import io
import re
from decimal import Decimal
from html import unescape
from typing import Any

import pytest
from django.db.models import Sum
from pypdf import PdfReader

from accounts.models import Consumer
from audit.models import AuditEntry
from common.ids import uuid7
from finance.charges import Category, sum_of
from finance.statement_pdf import printable, render
from finance.statements import OF_LEDGER, Account, Statement, statement, summaries
from metering.corrections import Amounts, correct
from metering.models import UsageRecord
from tests import factories
from tests.console import console, operator
from tests.metering.market import Market

SUBSCRIPTION = {
    "model": "subscription", "fee_per_month": "3", "included": 70, "rate_per_token": "0.01", "minimum_per_month": "20",
    "currency": "USD",
}  # fmt: skip
HOSTILE = "<script src=//evil.example>‮=cmd|' 漢字 مرحبا"


@pytest.fixture
def month(market: Market) -> Statement:
    """A month with two prices, a correction, a row beside its price, steps, a fee and a least amount."""
    later = market.service.publish_price(SUBSCRIPTION)
    corrected = market.entry()
    market.write(
        corrected,
        market.entry(cost="0.003000000000000001"),
        market.entry(price_version_id=later.id, cost="0.3"),
    )
    market.drain()
    correct(market.record(corrected), Amounts(cost=Decimal("-0.0005")), note="less", actor="x")
    Consumer.objects.filter(id=market.consumer.id).update(name=HOSTILE)
    market.consumer.refresh_from_db()
    return statement(market.consumer, market.month)


def lines_of(account: Account) -> list[Any]:
    return [line for part in account.parts for line in part.lines]


def test_lines_add_up_to_the_ledger_and_to_what_is_payable(month: Statement, market: Market) -> None:
    [account] = month.accounts
    lines = lines_of(account)
    assert {line.charge.category for line in lines} == {*Category} - {Category.ROUNDING}

    ledger = UsageRecord.objects.aggregate(cost=Sum("cost_amount"))["cost"]
    in_ledger = sum_of(line.charge.amount for line in lines if line.charge.category in OF_LEDGER)
    assert account.recorded == in_ledger == ledger == Decimal("0.305500000000000001")
    every = sum_of(line.charge.amount for line in lines)
    assert sum_of([every, account.rounding]) == account.payable == Decimal("20.00")
    assert sum_of([account.recorded, account.added, account.rounding]) == account.payable
    assert sum_of([*(part.amount for part in account.parts), account.rounding]) == account.payable
    assert [(row.recorded, row.payable) for row in summaries(market.month)] == [(ledger, account.payable)]


def test_every_line_opens_to_its_rows_and_no_name_runs(month: Statement, market: Market) -> None:
    client = console(operator("finance"))
    text = client.get(url(market)).content.decode()

    assert HOSTILE not in text
    assert "&lt;script src=//evil.example&gt;" in text
    assert "20.00 USD" in text
    links = re.findall(r'href="(/admin/metering/usagerecord/\?[^"]+)"', text)
    assert len(links) == len(lines_of(month.accounts[0]))
    counts = {client.get(unescape(link)).context["cl"].result_count for link in links}
    # Two at the first price, one at the second, one correction.
    assert counts == {1, 2}
    explorer = re.findall(r'href="(/admin/metering/usagerollup/explore/\?[^"]+)"', text)
    assert client.get(unescape(explorer[0])).status_code == 200
    listed = client.get("/admin/metering/closedmonth/statements/").content.decode()
    assert "20.00" in listed
    assert HOSTILE not in listed


def test_the_pdf_says_the_same_and_fetches_nothing(month: Statement, market: Market) -> None:
    answer = console(operator("viewer")).get(f"{url(market)}pdf/")
    assert answer["Content-Type"] == "application/pdf"
    assert AuditEntry.objects.filter(action="statement.downloaded").count() == 1

    document = PdfReader(io.BytesIO(answer.content))
    text = "\n".join(page.extract_text() for page in document.pages)
    assert "<script src=//evil.example>[U+202E]=cmd|' [U+6F22][U+5B57]" in text
    for line in lines_of(month.accounts[0]):
        assert line.what in text
    assert "20.00 USD" in text
    assert "0.305500000000000001" in text
    for word in (b"/URI", b"/Launch", b"/JavaScript", b"/GoToR", b"/EmbeddedFile"):
        assert word not in answer.content
    fonts = [font.get_object() for page in document.pages for font in page["/Resources"]["/Font"].values()]  # type: ignore[index]
    assert all("FiraGO" in font["/BaseFont"] for font in fonts)


def test_a_long_statement_has_its_head_on_every_page(month: Statement) -> None:
    [account] = month.accounts
    long = Account(
        account.currency, list(account.parts) * 12, account.recorded, account.added, account.rounding, account.payable
    )  # fmt: skip
    many = Statement(month.consumer_id, "Ж" * 255, month.month, True, month.made_at, [long])
    document = PdfReader(io.BytesIO(render(many)))
    assert len(document.pages) > 2
    last = document.pages[-1].extract_text()
    assert f"page {len(document.pages)} of {len(document.pages)}" in last
    assert "Final" in document.pages[0].extract_text()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ünïcode Ωμέγα Москва ₽", "Ünïcode Ωμέγα Москва ₽"),
        ("a\u200bb\u202ec\nd\te", "a[U+200B]b[U+202E]c[U+000A]d[U+0009]e"),
        ("日\U0001f600", "[U+65E5][U+1F600]"),
    ],
)
def test_what_the_font_lacks_is_told_by_its_code_point(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_month_of_nothing_and_months_that_are_none(market: Market) -> None:
    client = console(operator("finance"))
    quiet = factories.make_consumer("Quiet")
    start = f"/admin/metering/closedmonth/statements/2020-2/{quiet.id}/"
    assert "Nothing was used" in client.get(start).content.decode()
    assert client.get(f"{start}pdf/").content.startswith(b"%PDF")
    for other in (start.replace("2020-2", "2020-13"), start.replace("2020", "9999"), url(market, uuid7())):
        assert client.get(other).status_code == 404
    assert client.get("/admin/metering/closedmonth/statements/", {"month": "x"}).status_code == 400


def url(market: Market, consumer_id: Any = None) -> str:
    month: dt.date = market.month
    return f"/admin/metering/closedmonth/statements/{month.year}-{month.month}/{consumer_id or market.consumer.id}/"
