"""CSV: what was copied is the file."""

from pathlib import Path

from finance.formats import Progress
from finance.models import ExportJob
from finance.usage_file import select as select

SUFFIX = "csv"
BY_ROW = True


def write(job: ExportJob, copied: Path, target: Path, progress: Progress) -> None:
    copied.rename(target)
