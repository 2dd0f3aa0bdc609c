"""The columns of a usage file, how the ledger is asked for them, and how such a file is read again."""

import csv
import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from finance.cells import harmless_sql, original


@dataclass(frozen=True, slots=True)
class Column:
    """``kind``: text (may be anything, so it is made harmless), name (the same, in ``sql`` already), id (nobody's text,
    such as a word of ours), moment, count or amount."""

    name: str
    kind: str
    sql: str


def _tokens(name: str) -> Column:
    return Column(name, "count", f"coalesce((r.usage->>'{name}')::bigint, 0)")


COLUMNS = (
    Column("timestamp", "moment", """to_char(r."timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""),
    Column("request_id", "id", "r.request_id"),
    Column("record_id", "id", "r.id"),
    Column("kind", "id", "r.kind"),
    Column("corrects", "id", "r.corrects"),
    Column("consumer_id", "id", "r.consumer_id"),
    Column("consumer", "name", "coalesce(c.name, '')"),
    Column("service_id", "id", "r.service_id"),
    Column("service", "name", "coalesce(s.name, '')"),
    Column("api_key_id", "id", "r.api_key_id"),
    Column("tier", "text", "r.tier"),
    Column("status", "id", "r.status"),
    Column("error", "text", "r.error->>'code'"),
    Column("settlement", "id", "r.settlement"),
    Column("duration_ms", "count", "r.duration_ms"),
    _tokens("prompt_tokens"),
    _tokens("completion_tokens"),
    _tokens("cached_tokens"),
    _tokens("reasoning_tokens"),
    _tokens("cache_write_tokens"),
    _tokens("audio_prompt_tokens"),
    _tokens("audio_completion_tokens"),
    Column("total_tokens", "count", "r.total_tokens"),
    Column("usage_source", "id", "coalesce(r.usage->>'usage_source', '')"),
    Column("cost", "amount", "trim_scale(r.cost_amount)"),
    Column("currency", "id", "r.currency"),
    Column("price_version_id", "id", "r.price_version_id"),
)  # fmt: skip
KINDS = {column.name: column.kind for column in COLUMNS}

_READ: dict[str, Any] = {
    "text": original,
    "name": original,
    "id": str,
    "moment": dt.datetime.fromisoformat,
    "count": int,
    "amount": Decimal,
}


def select() -> str:
    """All columns of the rows in question, oldest first. The caller's ``WHERE`` speaks of ``r``, the ledger.

    Names are made harmless before they are joined, and kept by the server for the next row (``OFFSET 0`` holds it to
    that): nearly all rows are of a consumer and a service that it has met.
    """
    columns = ", ".join(
        f"{harmless_sql(column.sql) if column.kind == 'text' else column.sql} AS {column.name}"
        for column in COLUMNS
    )
    return f"""
        SELECT {columns} FROM usage_records r
        LEFT JOIN LATERAL (
            SELECT {harmless_sql("name")} AS name FROM consumers WHERE id = r.consumer_id OFFSET 0
        ) c ON true
        LEFT JOIN LATERAL (
            SELECT {harmless_sql("name || '@' || version")} AS name FROM services WHERE id = r.service_id OFFSET 0
        ) s ON true
        WHERE {{where}} ORDER BY r.id
    """  # noqa: S608 - names of columns alone  # nosec B608


def read_csv(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of an exported CSV file, values as they were in the ledger: ``Decimal``, ``int``, ``datetime``, text."""
    for row in csv.DictReader(lines):
        yield {name: _READ[KINDS[name]](cell) for name, cell in row.items()}
