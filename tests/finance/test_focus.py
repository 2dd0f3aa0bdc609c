"""FOCUS exports: rows follow from the ledger and add up to it."""

import csv
import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from catalog.models import PriceVersion, Service
from finance import exports, focus
from finance.tasks import run_export
from metering import partitions
from metering.models import UsageRecord
from tests import factories
from tests.finance.test_exports import exact_sum
from tests.ledger_rows import Calls

MARCH = (dt.datetime(2024, 3, 1, tzinfo=dt.UTC), dt.datetime(2024, 4, 1, tzinfo=dt.UTC))
BY_KIND = {
    "model": "per_token", "currency": "USD", "unit": 1_000_000,
    "rates": {"prompt": "3", "completion": "15", "cached": "0.3"},
}  # fmt: skip
WITH_FEE = {
    "model": "subscription", "currency": "USD", "fee_per_month": "20", "included": 1000, "rate_per_token": "0.001",
}  # fmt: skip


def exported(
    version: str = "1.4", start: dt.datetime = MARCH[0], end: dt.datetime = MARCH[1]
) -> tuple[list[dict[str, str]], Path]:
    job = exports.order(format=f"focus-{version}", actor="anna", start=start, end=end)
    run_export(str(job.id))
    job.refresh_from_db()
    file = exports.file_of(job)
    assert file is not None, job.error
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines)), file


@pytest.fixture(autouse=True)
def months(committed: None) -> None:
    partitions.make([dt.date(2024, 2, 1), dt.date(2024, 3, 1)])


def priced(pricing: dict[str, Any], **fields: Any) -> Service:
    """A service at a price that has held for long."""
    service = factories.make_service(pricing=pricing, **fields)
    assert PriceVersion.objects.filter(service=service).exists()
    return service


@pytest.fixture
def calls() -> Calls:
    return Calls(priced(BY_KIND, name="=oracle"), factories.make_consumer(name="Ärger & Söhne"))


def on(day: int, hour: int = 12) -> dt.datetime:
    return dt.datetime(2024, 3, day, hour, tzinfo=dt.UTC)


def call(
    calls: Calls, at: dt.datetime, prompt: int, completion: int, cached: int = 0, **fields: Any
) -> UsageRecord:
    cost = (Decimal(3) * (prompt - cached) + Decimal(15) * completion + Decimal("0.3") * cached) / 1_000_000
    usage = {
        "prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached, "reasoning_tokens": 0,
        "usage_source": "reported",
    }  # fmt: skip
    return calls.record(
        at=at, prompt=prompt, completion=completion, **{"cost": str(cost), "usage": usage, **fields}
    )


def billed(rows: list[dict[str, str]]) -> Decimal:
    return exact_sum(Decimal(row["BilledCost"]) for row in rows)


def ledger_sum() -> Decimal:
    return exact_sum(UsageRecord.objects.values_list("cost_amount", flat=True))


def test_a_day_has_a_row_for_each_kind_of_token(calls: Calls) -> None:
    call(calls, on(5), 1000, 10, cached=400)
    call(calls, on(5, 23), 7, 3)
    call(calls, on(6, 0), 1, 1)
    rows, _ = exported(end=on(20))
    told = {(row["ChargePeriodStart"][:10], row["SkuMeter"]): row for row in rows}
    assert {key: (row["ConsumedQuantity"], row["BilledCost"]) for key, row in told.items()} == {
        ("2024-03-05", "Input Tokens"): ("607", "0.001821"),
        ("2024-03-05", "Cache Read Input Tokens"): ("400", "0.00012"),
        ("2024-03-05", "Output Tokens"): ("13", "0.000195"),
        ("2024-03-06", "Input Tokens"): ("1", "0.000003"),
        ("2024-03-06", "Output Tokens"): ("1", "0.000015"),
    }
    assert billed(rows) == ledger_sum()
    row = told["2024-03-05", "Cache Read Input Tokens"]
    assert (row["PricingQuantity"], row["PricingUnit"], row["ListUnitPrice"]) == (
        "0.0004",
        "1000000 Tokens",
        "0.3",
    )
    assert (row["ChargePeriodEnd"], row["BillingPeriodEnd"]) == (
        "2024-03-06T00:00:00Z",
        "2024-04-01T00:00:00Z",
    )
    assert (row["x_RequestCount"], row["ResourceType"]) == ("2", "API Key")
    assert row["BillingAccountName"] == "Ärger & Söhne"
    assert row["ServiceName"].startswith("'=oracle@")  # no spreadsheet runs it


def test_every_cost_is_price_times_quantity_to_the_last_digit(calls: Calls) -> None:
    for day in range(1, 20):
        call(calls, on(day), 12_345 * day, 678 * day, cached=91 * day)
    rows, _ = exported()
    for row in rows:
        if row["PricingQuantity"]:
            assert Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) == Decimal(
                row["BilledCost"]
            )
            assert "E" not in row["BilledCost"]


def test_a_whole_month_adds_up_to_what_is_payable(calls: Calls) -> None:
    call(calls, on(5), 1000, 11)
    rows, _ = exported()
    rounding = [row for row in rows if row["ChargeCategory"] == "Adjustment"]
    assert [row["BilledCost"] for row in rounding] == ["-0.003165"]
    assert billed(rows) == Decimal("0.00")
    part, _ = exported(start=on(2, 0))
    assert billed(part) == ledger_sum()


def test_a_subscription_has_its_fee_and_gives_back_what_is_included() -> None:
    calls = Calls(priced(WITH_FEE))
    calls.record(at=on(5), prompt=900, completion=300, cost="1.2")
    rows, _ = exported()
    assert {(row["ChargeCategory"], row["BilledCost"]) for row in rows} == {
        ("Usage", "1.2"), ("Credit", "-1"), ("Purchase", "20"),
    }  # fmt: skip
    (fee,) = [row for row in rows if row["ChargeCategory"] == "Purchase"]
    assert (fee["PricingUnit"], fee["PricingCategory"], fee["ChargeFrequency"]) == (
        "Months",
        "Committed",
        "Recurring",
    )


def test_corrections_of_a_closed_month_are_told_as_such(calls: Calls) -> None:
    earlier = call(calls, dt.datetime(2024, 2, 29, 23, tzinfo=dt.UTC), 10, 10)
    late = call(calls, on(1, 5), 1000, 0, kind="correction", request_id=earlier.id, corrects=earlier.id)
    same = call(calls, on(7), 10, 10, status="unsettled", cost="0")
    call(calls, on(8), 10, 10, kind="correction", request_id=same.id, corrects=same.id)
    rows, _ = exported(end=on(20))
    told = {row["ChargePeriodStart"][:10]: row for row in rows if row["BilledCost"] != "0"}
    assert (told["2024-03-01"]["ChargeClass"], told["2024-03-01"]["ChargeCategory"]) == (
        "Correction",
        "Usage",
    )
    assert Decimal(told["2024-03-01"]["BilledCost"]) == late.cost_amount
    assert (told["2024-03-08"]["ChargeClass"], told["2024-03-08"]["ChargeCategory"]) == ("", "Adjustment")


def test_what_was_recorded_beside_the_price_is_told_too(calls: Calls) -> None:
    call(calls, on(5), 1000, 10, cost="5")
    rows, _ = exported(end=on(20))
    assert [row["BilledCost"] for row in rows if row["ChargeCategory"] == "Adjustment"] == ["4.99685"]
    assert billed(rows) == ledger_sum() == 5


@pytest.mark.parametrize("version", ["1.4", "1.2"])
def test_columns_are_those_of_the_version_in_order(calls: Calls, version: str) -> None:
    call(calls, on(5), 1000, 10)
    rows, _ = exported(version)
    names = list(rows[0])
    own = [name for name in names if name.startswith("x_")]
    assert names == sorted(set(names) - set(own)) + own == list(focus.COLUMNS[version])
    assert ("ProviderName" in names) == (version == "1.2")
    assert ("ServiceProviderName" in names) == (version == "1.4")
