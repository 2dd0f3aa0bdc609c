"""Statements of whole months: a PDF for each consumer and month, and a list of what each comes to."""

import csv
import datetime as dt
import io
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from catalog.pricing import KINDS
from common.money import plain
from finance import statement_pdf
from finance.cells import harmless
from finance.charges import charges
from finance.consumer_months import by_consumer
from finance.formats import Progress
from finance.models import ExportJob
from finance.statements import Statement, statement_of

SUFFIX = "zip"
BY_ROW = False
LIST = "statements.csv"
_HEAD = (
    "month",
    "consumer_id",
    "consumer",
    "currency",
    "recorded",
    "added",
    "rounding",
    "payable",
    "state",
    "file",
)
_TOKENS = ", ".join(
    f"sum(coalesce((r.usage->>'{kind}_tokens')::bigint, 0)) AS {kind}_tokens" for kind in KINDS
)
_SELECT = f"""
    SELECT g.*, c.name AS consumer FROM (
        SELECT date_trunc('month', r."timestamp" AT TIME ZONE 'UTC')::date AS month, r.consumer_id, r.service_id,
            r.price_version_id, r.currency, r.kind, count(*) AS rows, {_TOKENS},
            count(*) FILTER (WHERE r.usage->>'usage_source' <> 'none') AS requests,
            sum(r.cost_amount) AS cost
        FROM usage_records r WHERE {{where}} GROUP BY 1, 2, 3, 4, 5, 6
    ) g LEFT JOIN consumers c ON c.id = g.consumer_id ORDER BY g.month, g.consumer_id
"""  # noqa: S608 - names of columns alone  # nosec B608


def select() -> str:
    return _SELECT


def write(job: ExportJob, copied: Path, target: Path, progress: Progress) -> None:
    listed = io.StringIO(newline="")
    table = csv.writer(listed, lineterminator="\n")
    table.writerow(_HEAD)
    done = 0
    with (
        copied.open(newline="", encoding="utf-8") as lines,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for found, rows in _statements(lines):
            name = f"{found.month:%Y-%m}/{found.consumer_id}.pdf"
            archive.writestr(name, statement_pdf.render(found))
            table.writerows(_listed(found, name))
            done += rows
            progress(done)
        archive.writestr(LIST, listed.getvalue())


def _statements(lines: Iterable[str]) -> Iterator[tuple[Statement, int]]:
    """Each consumer's of each month, and of how many rows of the ledger it is."""
    rows = csv.DictReader(lines)
    for (month, _, name), of_consumer in groupby(rows, key=itemgetter("month", "consumer_id", "consumer")):
        sums = list(of_consumer)
        for consumer_id, uses in by_consumer([_sum(row) for row in sums]):
            found = statement_of(consumer_id, name, dt.date.fromisoformat(month), charges(uses))
            yield found, sum(int(row["rows"]) for row in sums)


def _sum(row: dict[str, str]) -> dict[str, Any]:
    ids = {name: uuid.UUID(row[name]) for name in ("consumer_id", "service_id", "price_version_id")}
    return {**row, **ids, "cost": Decimal(row["cost"])}


def _listed(found: Statement, file: str) -> Iterator[list[str]]:
    state = "final" if found.is_final else "provisional"
    for account in found.accounts:
        amounts = (account.recorded, account.added, account.rounding, account.payable)
        yield [
            f"{found.month:%Y-%m}", str(found.consumer_id), harmless(found.consumer), account.currency,
            *(plain(amount) for amount in amounts), state, file,
        ]  # fmt: skip
