"""CSV: what was copied is the file."""

from pathlib import Path

from finance.formats import Progress
from finance.usage_file import select as select

SUFFIX = "csv"


def write(copied: Path, target: Path, progress: Progress) -> None:
    copied.rename(target)
