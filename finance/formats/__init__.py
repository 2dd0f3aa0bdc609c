"""The formats of usage files: each module's ``write`` turns what was copied out of the ledger into its own kind."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from finance.models import ExportJob

#: Told how many rows are written so far; raises where the job is not wanted any more.
Progress = Callable[[int], None]


class Format(Protocol):
    """A module of this package. ``SUFFIX``: of its files. ``select``: the question to the ledger. ``BY_ROW``: whether
    it is answered with a line for each row, by id."""

    SUFFIX: str
    BY_ROW: bool

    def select(self) -> str: ...

    def write(self, job: ExportJob, copied: Path, target: Path, progress: Progress) -> None:
        """``copied`` is the answer as CSV (which may be moved); ``target`` does not exist yet."""


_MODULES = {
    ExportJob.Format.CSV: "csv_file",
    ExportJob.Format.XLSX: "xlsx",
    ExportJob.Format.PARQUET: "parquet",
    ExportJob.Format.FOCUS_1_4: "focus_csv",
    ExportJob.Format.FOCUS_1_2: "focus_csv",
    ExportJob.Format.STATEMENTS: "statements_zip",
}


def load(name: str) -> Format:
    """The format of a job. Loaded when first asked for: one of them brings 60 MB that no other process needs."""
    return cast(Format, import_module(f"{__name__}.{_MODULES[ExportJob.Format(name)]}"))
