"""``manage.py erase_metadata``: forget what a consumer's calls said of a person."""

import datetime as dt
import uuid
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from accounts.models import Consumer
from common import clock
from metering.erasure import Erasure


def member(text: str) -> tuple[str, str]:
    """``NAME=VALUE``. Raises ValueError where it is none."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError
    return name, value


class Command(BaseCommand):
    help = (
        "Take the metadata out of a consumer's usage records and dead letters, in closed months too. Nothing that is "
        "charged depends on it. It may be killed and run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        day = dt.date.fromisoformat
        parser.add_argument("--consumer", required=True, type=uuid.UUID, metavar="ID")
        parser.add_argument(
            "--where",
            action="append",
            default=[],
            type=member,
            metavar="NAME=VALUE",
            help="only metadata with this member, whose value is text; several must all be there",
        )
        parser.add_argument(
            "--from", type=day, dest="first", help="first UTC day; the consumer's first one if none is given"
        )
        parser.add_argument(
            "--to", type=day, dest="last", help="last UTC day, included; today if none is given"
        )
        parser.add_argument("--dry-run", action="store_true", help="only count")

    def handle(self, *args: Any, **options: Any) -> None:
        consumer = Consumer.objects.filter(id=options["consumer"]).first()
        if consumer is None:
            raise CommandError("there is no such consumer")
        today = clock.now().date()
        first, last = options["first"] or consumer.created_at.date(), options["last"] or today
        if last < first or last > today:
            raise CommandError("the range ends before it begins, or too late")
        erasure = Erasure(consumer.id, first, last, dict(options["where"]))
        if options["dry_run"]:
            self.stdout.write(f"{erasure.count()} with metadata.")
        else:
            self.stdout.write(f"Metadata of {erasure.erase(actor='erase_metadata')} erased.")
        for month in erasure.archived_months():
            self.stdout.write(
                f"{month:%Y-%m} is archived, its file stays as it is: restore it, erase, and archive it again."
            )
