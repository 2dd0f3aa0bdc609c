"""FOCUS as CSV, in one version of the specification."""

import csv
from pathlib import Path

from finance import focus, focus_usage
from finance.formats import Progress
from finance.models import ExportJob

SUFFIX = "csv"
BY_ROW = False
_STEP = 4_000


def select() -> str:
    return focus_usage.select()


def write(job: ExportJob, copied: Path, target: Path, progress: Progress) -> None:
    version = "1.4" if job.format == ExportJob.Format.FOCUS_1_4 else "1.2"
    with (
        copied.open(newline="", encoding="utf-8") as lines,
        target.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(focus.COLUMNS[version])
        found = focus_usage.with_months(focus_usage.groups(lines), job.start, job.end)
        for count, row in enumerate(focus.rows(found), 1):
            writer.writerow(focus.written(row, version))
            if count % _STEP == 0:
                progress(count)
