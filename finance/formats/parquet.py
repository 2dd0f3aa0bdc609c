"""Parquet with exact types: amounts are ``decimal128(38, 18)``, as the ledger has them."""

from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from finance.formats import Progress
from finance.models import ExportJob
from finance.usage_file import COLUMNS
from finance.usage_file import select as select

SUFFIX = "parquet"
BY_ROW = True
_TYPES = {
    "text": pa.string(),
    "name": pa.string(),
    "id": pa.string(),
    "moment": pa.timestamp("ms", tz="UTC"),
    "count": pa.int64(),
    "amount": pa.decimal128(38, 18),
}
SCHEMA = pa.schema([(column.name, _TYPES[column.kind]) for column in COLUMNS])
#: Bytes of CSV that are turned at a time.
_BLOCK = 2 * 1024 * 1024


def write(job: ExportJob, copied: Path, target: Path, progress: Progress) -> None:
    written = 0
    reader = csv.open_csv(
        copied,
        read_options=csv.ReadOptions(block_size=_BLOCK, use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=SCHEMA,
            strings_can_be_null=False,
            timestamp_parsers=["%Y-%m-%dT%H:%M:%SZ", csv.ISO8601],
        ),
    )
    with reader, parquet.ParquetWriter(target, SCHEMA, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            written += batch.num_rows
            progress(written)
