"""A month's rows of the ledger as a Parquet file, what they come to, and the way back into a table.

Every column is in the file as the database writes it, so that what is read again is the same to the last digit; what
tells is ``facts``, asked of the ledger, of what was read back from the file, and of a month that is restored.
"""

import io
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from common.money import ZERO, plain
from metering.journal import TOKEN_COUNTS
from metering.lines import COLUMNS

#: Of what columns mean. Which there are is in the file, and in its manifest: older files stay readable where the ledger
#: gets further ones that have a default.
SCHEMA_VERSION = 1
NAMES = [column.strip('"') for column in COLUMNS]
#: Bytes of CSV, and rows, that are turned at a time; and bytes that the server is given.
_BLOCK, _ROWS, _PIECE = 4 * 1024 * 1024, 20_000, 64 * 1024

_TIMESTAMP = """to_char("timestamp" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS "timestamp\""""
_COPY = "COPY (SELECT {columns} FROM {table} ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER)"
_TOKENS = (*TOKEN_COUNTS, "total_tokens")
_SUMS = ", ".join(
    [*(f"sum(coalesce((usage->>'{name}')::bigint, 0))" for name in TOKEN_COUNTS), "sum(total_tokens)"]
)
# Of every row as text; the sum of their parts is the same in any order.
_FACTS = f"""
    SELECT currency, kind, price_version_id, count(*), sum(cost_amount), {_SUMS},
        sum(('x' || substr(md5(r::text), 1, 15))::bit(60)::bigint)
    FROM (SELECT {{columns}} FROM {{table}}) r GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""  # noqa: S608 - names of columns alone  # nosec B608


def facts(at: BaseDatabaseWrapper, table: str, columns: Sequence[str] = NAMES) -> dict[str, Any]:
    """What a table's rows come to, JSON-ready; ``digest`` is of these columns of every row."""
    rows: dict[str, int] = defaultdict(int)
    versions: dict[str, int] = defaultdict(int)
    totals: dict[str, Decimal] = defaultdict(Decimal)
    tokens: dict[str, int] = dict.fromkeys(_TOKENS, 0)
    digest = 0
    with at.cursor() as cursor, localcontext() as context:
        context.prec = 60  # the usual 28 digits would round
        cursor.execute(_FACTS.format(table=table, columns=_listed(columns)))
        for currency, kind, version, count, cost, *sums, part in cursor.fetchall():
            rows[kind] += count
            versions[str(version)] += count
            totals[currency] = totals.get(currency, ZERO) + cost
            for name, value in zip(_TOKENS, sums, strict=True):
                tokens[name] += int(value)
            digest += int(part)
    return {
        "rows": sum(rows.values()),
        "rows_by_kind": dict(sorted(rows.items())),
        "totals": {currency: plain(cost) for currency, cost in sorted(totals.items())},
        "tokens": tokens,
        "price_versions": _price_versions(at, versions),
        "columns": list(columns),
        "digest": str(digest),
    }


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def _price_versions(at: BaseDatabaseWrapper, rows_of: dict[str, int]) -> list[dict[str, Any]]:
    with at.cursor() as cursor:
        cursor.execute(
            "SELECT id::text, service_id::text, pricing::text FROM price_versions WHERE id = ANY(%s::uuid[])",
            [list(rows_of)],
        )
        found = {
            id_: (service, json.loads(pricing, parse_float=str))
            for id_, service, pricing in cursor.fetchall()
        }
    return [
        {
            "id": id_,
            "rows": rows,
            "service_id": found.get(id_, (None,))[0],
            "pricing": found.get(id_, (None, None))[1],
        }
        for id_, rows in sorted(rows_of.items())
    ]


def write(at: BaseDatabaseWrapper, table: str, target: Path) -> None:
    """A table's rows, by id. When this returns, the file is on the disk, whole; before, there is none of its name."""
    copied, made = target.with_suffix(".copied"), target.with_suffix(".made")
    columns = _listed(NAMES).replace('"timestamp"', _TIMESTAMP)
    try:
        with copied.open("wb") as file, at.cursor() as cursor, at.wrap_database_errors:
            cursor.copy_expert(_COPY.format(columns=columns, table=table), file)
        _to_parquet(copied, made)
    finally:
        copied.unlink(missing_ok=True)
    with made.open("rb") as file:
        os.fsync(file.fileno())
    made.rename(target)
    flush_folder(target.parent)


def flush_folder(folder: Path) -> None:
    """Have the names in it outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _to_parquet(copied: Path, target: Path) -> None:
    # Brings 60 MB that few processes need.
    from pyarrow import csv, parquet

    schema = _schema()
    reader = csv.open_csv(
        copied,
        read_options=csv.ReadOptions(block_size=_BLOCK, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False,
            timestamp_parsers=[csv.ISO8601],
        ),
    )  # fmt: skip
    with reader, parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def _schema() -> Any:
    import pyarrow as pa

    types = {
        "timestamp": pa.timestamp("us", tz="UTC"), "duration_ms": pa.int32(), "total_tokens": pa.int64(),
        "cost_amount": pa.decimal128(38, 18),
    }  # fmt: skip
    return pa.schema(
        [(name, types.get(name, pa.string())) for name in NAMES],
        metadata={"schema_version": str(SCHEMA_VERSION)},
    )


def load(source: Path, table: str) -> None:
    """Copy a file's rows into an empty table, in the caller's transaction."""
    rows = _Rows(source)
    with connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.copy_expert(f"COPY {table} ({_listed(rows.names)}) FROM STDIN WITH (FORMAT csv)", rows, _PIECE)


class _Rows(io.RawIOBase):
    """A Parquet file, read as CSV some rows at a time."""

    def __init__(self, source: Path) -> None:
        from pyarrow import parquet

        file = parquet.ParquetFile(source)
        self.names: list[str] = file.schema_arrow.names
        self._batches = file.iter_batches(batch_size=_ROWS)
        self._text = io.BytesIO()

    def read(self, size: int = -1, /) -> bytes:
        while not (taken := self._text.read(size)):
            batch = next(self._batches, None)
            if batch is None:
                break
            self._text = io.BytesIO(_as_csv(batch))
        return taken


def _as_csv(batch: Any) -> bytes:
    import pyarrow as pa
    from pyarrow import csv

    file = io.BytesIO()
    text = pa.Table.from_arrays(
        [column.cast(pa.string()) for column in batch.columns], names=batch.schema.names
    )
    csv.write_csv(text, file, csv.WriteOptions(include_header=False))
    return file.getvalue()
