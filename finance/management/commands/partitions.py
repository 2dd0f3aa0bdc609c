"""``manage.py partitions``: the ledger's partitions for the months ahead, and closed months to the archive and back."""

import datetime as dt
from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finance import archives
from finance.errors import ArchiveRefused
from finance.models import ArchiveStep
from metering.partitions import make_ahead

_VERBS = {"archive": archives.archive, "drop": archives.drop, "restore": archives.restore}


class Command(BaseCommand):
    help = (
        "Makes the ledger's partitions for this month and the next three, where they are missing. With a verb: lists "
        "archived months, archives a closed one, drops the table of one that is archived, restores one. Each may be "
        "killed and run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("verb", nargs="?", default="make", choices=("make", "list", *_VERBS))
        parser.add_argument("month", nargs="?", type=_month, metavar="YYYY-MM")

    def handle(self, *args: Any, **options: Any) -> None:
        verb, month = options["verb"], options["month"]
        if verb in _VERBS:
            if month is None:
                raise CommandError("which month? YYYY-MM")
            try:
                self._tell(_VERBS[verb](month, by="manage.py"))
            except ArchiveRefused as refused:
                raise CommandError(refused.detail) from refused
        elif verb == "list":
            for step in archives.latest().values():
                self._tell(step)
        else:
            made = make_ahead()
            self.stdout.write("made " + ", ".join(made) if made else "nothing to make")

    def _tell(self, step: ArchiveStep) -> None:
        totals = " ".join(f"{amount} {currency}" for currency, amount in step.totals.items())
        self.stdout.write(
            f"{step.month:%Y-%m} {step.step} {step.at:%Y-%m-%d %H:%M:%S} {step.rows} rows {totals}"
            f" {archives.file_of(step)} {step.sha256}"
        )


def _month(text: str) -> dt.date:
    try:
        return dt.datetime.strptime(text, "%Y-%m").replace(tzinfo=dt.UTC).date()
    except ValueError as error:
        raise ArgumentTypeError("a month is YYYY-MM") from error
