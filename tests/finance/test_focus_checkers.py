"""FOCUS files held against the rules of their version: our own reading of 1.2, and checkers written elsewhere, each in
an environment of its own and skipped where that cannot be had."""

import datetime as dt
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests import factories
from tests.finance.test_focus import BY_KIND, WITH_FEE, call, exported, months, on, priced
from tests.harness.servers import ROOT
from tests.ledger_rows import Calls

__all__ = ["months"]

#: What lints 1.4, and the official validator, which knows 1.2.
TOOLKIT, VALIDATOR = ("focus-data-toolkit==0.14.1",), ("focus-validator==2.2.1", "pyarrow<20")
#: Rules of the validator that ask more than the specification: nothing is invoiced here, so there is no invoice (the
#: rule before this one says that it must be null then); and a fee is of its own month, not for later charges.
ASKED_TOO_MUCH = {"InvoiceId-C-005-C", "EffectiveCost-C-005-C"}

Row = dict[str, str]
Check = Callable[[str, Row], bool]


@pytest.fixture
def everything() -> None:
    """Every kind of row that a file may have: usage by token and request, a correction, steps, a fee, rounding."""
    calls = Calls(priced(BY_KIND, name="=oracle"), factories.make_consumer(name="+Omega, Ltd."))
    calls.key.metadata = {"team": "a", "depth": 3}
    calls.key.save()
    call(calls, on(5), 1000, 10, cached=3)
    earlier = call(calls, dt.datetime(2024, 2, 29, 23, tzinfo=dt.UTC), 10, 10)
    call(calls, on(9), 10, 10, kind="correction", request_id=earlier.id, corrects=earlier.id)
    call(calls, on(10), 10, 10, cost="5")
    subscribed = Calls(priced(WITH_FEE), calls.key.consumer)
    subscribed.record(at=on(5), prompt=900, completion=300, cost="1.2")
    asked = Calls(priced({"model": "per_request", "rate_per_request": "0.01", "currency": "EUR"}))
    asked.record(at=on(5), cost="0.01", currency="EUR")


def one_of(*allowed: str) -> Check:
    return lambda cell, _: cell in allowed


def like(pattern: str) -> Check:
    return lambda cell, _: re.fullmatch(pattern, cell) is not None


def where(condition: Callable[[Row], bool], check: Check) -> Check:
    """Required where the condition holds, and empty elsewhere."""
    return lambda cell, row: check(cell, row) if condition(row) else cell == ""


def is_tags(cell: str, _: Row) -> bool:
    if cell == "":
        return True
    found = json.loads(cell)
    return isinstance(found, dict) and all(isinstance(value, str | int | bool) for value in found.values())


def is_priced(row: Row) -> bool:
    return row["ChargeCategory"] in ("Usage", "Purchase") and row["ChargeClass"] == ""


def is_used(row: Row) -> bool:
    return row["ChargeCategory"] == "Usage" and row["ChargeClass"] == ""


TEXT, ID = like(r"(?s).+"), like(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MOMENT = like(r"\d{4}-\d{2}-\d{2}T00:00:00Z")
DECIMAL, AT_LEAST_0 = like(r"-?\d+(\.\d+)?"), like(r"\d+(\.\d+)?")
#: Columns of 1.2 as the specification has them: name, and what a cell must be. Alphabetical; ours last.
OF_1_2: dict[str, Check] = {
    "BilledCost": DECIMAL,
    "BillingAccountId": ID,
    "BillingAccountName": TEXT,
    "BillingCurrency": like("[A-Z]{3}"),
    "BillingPeriodEnd": MOMENT,
    "BillingPeriodStart": MOMENT,
    "ChargeCategory": one_of("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    "ChargeClass": one_of("", "Correction"),
    "ChargeDescription": TEXT,
    "ChargeFrequency": one_of("Usage-Based", "Recurring", "One-Time"),
    "ChargePeriodEnd": MOMENT,
    "ChargePeriodStart": MOMENT,
    "ConsumedQuantity": where(is_used, AT_LEAST_0),
    "ConsumedUnit": where(is_used, one_of("Tokens", "Requests")),
    "ContractedCost": DECIMAL,
    "ContractedUnitPrice": where(is_priced, AT_LEAST_0),
    "EffectiveCost": DECIMAL,
    "InvoiceId": one_of(""),
    "InvoiceIssuerName": TEXT,
    "ListCost": DECIMAL,
    "ListUnitPrice": where(is_priced, AT_LEAST_0),
    "PricingCategory": where(is_priced, one_of("Standard", "Committed")),
    "PricingQuantity": where(is_priced, AT_LEAST_0),
    "PricingUnit": where(is_priced, like(r"(\d+ )?Tokens|Requests|Months")),
    "ProviderName": TEXT,
    "PublisherName": TEXT,
    "ResourceId": lambda cell, row: cell == "" if row["ResourceType"] == "" else ID(cell, row),
    "ResourceName": lambda cell, row: cell == "" or row["ResourceId"] != "",
    "ResourceType": lambda cell, row: cell == ("API Key" if row["ResourceId"] else ""),
    "ServiceCategory": one_of("AI and Machine Learning"),
    "ServiceName": TEXT,
    "ServiceSubcategory": one_of("Generative AI"),
    "SkuId": where(is_priced, ID),
    "SkuMeter": where(is_priced, TEXT),
    "SkuPriceId": where(is_priced, like(r"[0-9a-f-]{36}/\w+")),
    "Tags": is_tags,
    "x_PriceVersionId": lambda cell, row: cell == "" or ID(cell, row),
    "x_RequestCount": like(r"\d*"),
    "x_RowsDigest": like(r"([0-9a-f]{64})?"),
}
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")


def faults(names: list[str], rows: list[Row]) -> Iterator[str]:
    """What of a file is not as 1.2 has it."""
    if names != list(OF_1_2):
        yield "columns"
    for row in rows:
        yield from (name for name, check in OF_1_2.items() if not check(row[name], row))
        if (
            not row["BillingPeriodStart"]
            <= row["ChargePeriodStart"]
            < row["ChargePeriodEnd"]
            <= row["BillingPeriodEnd"]
        ):
            yield "periods"
        if len({row[name] for name in COSTS}) != 1:
            yield "costs"
        if is_priced(row) and Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"]) != Decimal(
            row["ListCost"]
        ):
            yield "price times quantity"


def test_a_file_of_1_2_has_the_columns_types_and_values_of_its_version(everything: None) -> None:
    rows, _ = exported("1.2")
    assert list(faults(list(rows[0]), rows)) == []
    kinds = {(row["ChargeCategory"], row["ChargeClass"]) for row in rows}
    assert kinds == {
        ("Usage", ""), ("Usage", "Correction"), ("Purchase", ""), ("Credit", ""), ("Adjustment", ""),
    }  # fmt: skip
    assert {row["Tags"] for row in rows} >= {'{"team": "a", "depth": 3}', ""}
    # Each rule can fail: no other version's file passes, and no cell may hold anything or nothing.
    others, _ = exported("1.4")
    assert [*others[0]] != [*OF_1_2]
    [used] = [row for row in rows if row["SkuMeter"] == "Requests"]
    free = {
        "ResourceName",
        "Tags",
        "x_PriceVersionId",
        "x_RequestCount",
        "x_RowsDigest",
        "ChargeClass",
        "InvoiceId",
    }
    for name in OF_1_2:
        if name not in free:
            assert name in faults(list(used), [used | {name: ""}]), name
        if name not in {"BillingAccountName", "ResourceName", "SkuMeter"} and OF_1_2[name] is not TEXT:
            spoilt = "[1]" if name == "Tags" else "1e3?"
            assert name in faults(list(used), [used | {name: spoilt}]), name


def environment(python: str, packages: tuple[str, ...], program: str, *, seconds: float) -> Path:
    """Where a program is, installed into an environment of its own below ``var``; skips the test where it cannot be."""
    folder = ROOT / "var" / "checkers" / packages[0]
    if not (done := folder / "installed").exists():
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
        try:
            subprocess.run([*pip, *packages], capture_output=True, timeout=seconds, check=True)
        except subprocess.SubprocessError:
            pytest.skip(f"{packages[0]} could not be installed")
        done.touch()
    return folder / "bin" / program


def test_a_checker_written_elsewhere_accepts_1_4(everything: None) -> None:
    _, file = exported()
    program = environment(sys.executable, TOOLKIT, "focus-toolkit", seconds=90)
    command = [str(program), "validate", str(file), "--dataset", "cost-and-usage"]
    for condition in ("SupportsUnitPricing", "SupportsMultiplePricingCategories"):
        command += ["--supports", condition]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    broken = file.with_name("broken.csv")
    broken.write_text(file.read_text(encoding="utf-8").replace("Generative AI", "Poetry"), encoding="utf-8")
    command[2] = str(broken)
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode != 0


def newer_python() -> str:
    """A Python that the official validator runs on: below 3.12 its installer gives an old one that checks little."""
    for python in (os.environ.get("FOCUS_VALIDATOR_PYTHON", ""), "python3.12", "python3.13"):
        # What is on the path may be there and not run.
        if shutil.which(python) and not subprocess.run([python, "--version"], capture_output=True).returncode:
            return python
    pytest.skip("focus-validator needs Python 3.12: none on the path, nor named by FOCUS_VALIDATOR_PYTHON")


def test_the_official_validator_accepts_1_2(everything: None) -> None:
    """It ends with 0 whatever it finds, reads its rules below where it stands, and lists what failed."""
    _, file = exported("1.2")
    program = environment(newer_python(), VALIDATOR, "focus-validator", seconds=150)
    [packages] = program.parents[1].glob("lib/python*/site-packages")
    command = [str(program), "--data-file", str(file), "--validate-version", "1.2", "--block-download"]
    found = subprocess.run(
        command, cwd=packages, env={**os.environ, "PYTHONIOENCODING": "utf-8"}, capture_output=True, encoding="utf-8",
        timeout=90, check=False,
    )  # fmt: skip
    total = re.search(r"^Total: \d+ \| Pass: (\d+) \| Fail: (\d+) ", found.stdout, re.MULTILINE)
    assert total is not None, found.stdout + found.stderr
    failed = re.findall(r"^\S+ (\S+): FAIL ", found.stdout, re.MULTILINE)
    assert {*failed} == ASKED_TOO_MUCH
    assert (int(total[1]) > 100, int(total[2])) == (True, len(failed))
