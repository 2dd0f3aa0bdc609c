"""The CSV export: complete, in order, in pages, harmless in a spreadsheet, and only for finance."""

import csv
import datetime as dt
import io
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.test import Client

from accounts.models import User
from audit.models import AuditEntry
from common.ids import uuid7
from metering import export, partitions
from metering.models import UsageRecord
from tests import factories
from tests.metering.market import Market

URL = "/admin/metering/usagerecord/export/"
START = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)


def signed_in(*, finance: bool = False, **fields: Any) -> Client:
    user: User = factories.make_user(is_staff=True, **fields)
    if finance:
        user.groups.add(Group.objects.get_or_create(name="finance")[0])
    client = Client()
    client.force_login(user)
    return client


def rows_of(response: Any) -> list[dict[str, str]]:
    chunks: Iterable[bytes] = response.streaming_content
    return list(csv.DictReader(io.StringIO(b"".join(chunks).decode())))


def moment_ms(**after_start: int) -> int:
    return int((START + dt.timedelta(**after_start)).timestamp() * 1000)


@pytest.fixture
def january(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metering.lines.OLDEST", dt.timedelta(days=10_000))


def test_a_range_of_days_is_exported_whole_and_in_order(
    market: Market, january: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PAGE", 3)
    inside = [uuid7(moment_ms(hours=hour)) for hour in (0, 5, 23, 24, 30, 40, 47)]
    inside.append(uuid7(moment_ms(hours=48) - 1))
    outside = [uuid7(moment_ms() - 1), uuid7(moment_ms(hours=48))]
    market.write(*[market.entry(request_id=id_) for id_ in reversed(inside + outside)])
    market.drain()

    response = signed_in(finance=True).get(URL, {"start": "2026-01-31", "end": "2026-02-01"})

    assert response.status_code == 200
    assert response["Content-Disposition"] == 'attachment; filename="usage_2026-01-31_2026-02-01.csv"'
    rows = rows_of(response)
    assert [row["request_id"] for row in rows] == [str(id_) for id_ in inside]
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal("0.024")
    assert sum(int(row["total_tokens"]) for row in rows) == 240
    assert rows[0] == {
        "timestamp": "2026-01-31T00:00:00.000Z",
        "request_id": str(inside[0]),
        "record_id": str(inside[0]),
        "kind": "usage",
        "corrects": "",
        "consumer_id": str(market.consumer.id),
        "consumer": market.consumer.name,
        "service_id": str(market.service.id),
        "service": str(market.service),
        "api_key_id": str(market.key.id),
        "tier": "enterprise",
        "status": "success",
        "error": "",
        "settlement": "lease",
        "duration_ms": "120",
        "prompt_tokens": "10",
        "completion_tokens": "20",
        "cached_tokens": "0",
        "reasoning_tokens": "0",
        "cache_write_tokens": "0",
        "audio_prompt_tokens": "0",
        "audio_completion_tokens": "0",
        "total_tokens": "30",
        "usage_source": "reported",
        "cost": "0.003",
        "currency": "USD",
        "price_version_id": str(market.price_version_id),
    }
    entry = AuditEntry.objects.get(action="usage.exported")
    assert (entry.target_id, entry.address) == ("2026-01-31..2026-02-01", "127.0.0.1")


def test_text_is_no_formula_and_numbers_stay_numbers(market: Market, january: None) -> None:
    market.consumer.name = '=HYPERLINK("http://x")'
    market.consumer.save()
    entry = market.entry(request_id=uuid7(moment_ms()), status="error", error="@sum")
    market.write(entry)
    market.drain()
    UsageRecord.objects.update(cost_amount=Decimal("-0.003"))

    lines = "".join(export.csv_lines(first=START.date(), last=START.date()))
    row = next(csv.DictReader(io.StringIO(lines)))

    assert (row["consumer"], row["error"], row["cost"]) == ('\'=HYPERLINK("http://x")', "'@sum", "-0.003")


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx", "\nx"])
def test_what_a_spreadsheet_takes_for_a_formula_is_quoted(text: str) -> None:
    assert export.harmless(text) == f"'{text}"
    assert export.harmless(f"x{text}") == f"x{text}"


def test_rows_of_a_consumer_that_is_gone_are_exported_too(market: Market, january: None) -> None:
    market.write(market.entry(request_id=uuid7(moment_ms()), consumer_id=uuid7()))
    market.drain()

    rows = list(csv.DictReader(export.csv_lines(first=START.date(), last=START.date())))

    assert [row["consumer"] for row in rows] == [""]


@pytest.mark.django_db
def test_without_dates_there_is_a_form() -> None:
    response = signed_in(finance=True).get(URL)

    assert response.status_code == 200
    assert b'type="date"' in response.content
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("start", "end"),
    [("2026-02-01", "2026-01-31"), ("x", "2026-01-31"), ("2026-01-31", ""), ("2026-01-31", "9999-12-31")],
)
def test_a_range_that_is_none_is_refused(start: str, end: str) -> None:
    response = signed_in(finance=True).get(URL, {"start": start, "end": end})

    assert response.status_code == 400
    assert not AuditEntry.objects.exists()


@pytest.mark.django_db
def test_only_finance_and_superusers_export() -> None:
    question = {"start": "2026-01-31", "end": "2026-01-31"}

    assert signed_in().get(URL, question).status_code == 403
    assert Client().get(URL, question).status_code == 302
    assert not AuditEntry.objects.exists()
    assert signed_in(finance=True).get(URL, question).status_code == 200
    assert signed_in(is_superuser=True).get(URL, question).status_code == 200


@pytest.mark.django_db
def test_who_is_not_active_exports_nothing() -> None:
    user = factories.make_user(is_superuser=True, is_active=False)

    assert not export.may_export(user)


@pytest.mark.django_db
def test_a_partition_without_rows_gives_the_head_alone() -> None:
    partitions.make([dt.date(2031, 1, 1)])
    lines = list(export.csv_lines(first=dt.date(2031, 1, 1), last=dt.date(2031, 1, 31)))

    assert lines == [",".join(export.COLUMNS) + "\r\n"]
