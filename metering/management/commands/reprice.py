"""``manage.py reprice``: what calls cost, compared with the price in force at their time, and corrected."""

import datetime as dt
import uuid
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from catalog.models import Service
from catalog.pricing import EXACT
from common import clock
from common.money import ZERO, plain
from metering.models import ClosedMonth
from metering.repricing import Repriced, Scope, compare, reprice

HEAD = ("service", "charged at", "in force", "calls", "cost", "should cost", "difference", "")


class Command(BaseCommand):
    help = (
        "Show by how much calls differ from the price in force at their time, and then write corrections for the "
        "difference. Calls of closed months are left alone. It may be killed and run again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--from", required=True, type=dt.date.fromisoformat, dest="first", help="first UTC day"
        )
        parser.add_argument(
            "--to", required=True, type=dt.date.fromisoformat, dest="last", help="last UTC day, included"
        )
        parser.add_argument("--service", type=uuid.UUID, metavar="ID")
        parser.add_argument("--consumer", type=uuid.UUID, metavar="ID")
        parser.add_argument("--dry-run", action="store_true", help="only show the table")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["last"] < options["first"] or options["last"] >= dt.date.max:
            raise CommandError("the range ends before it begins, or too late")
        scope = Scope(
            start=clock.day_start(options["first"]),
            end=clock.day_start(options["last"] + dt.timedelta(days=1)),
            service_id=options["service"],
            consumer_id=options["consumer"],
        )
        self._tell_of_closed(scope)
        rows = _rows(compare(scope))
        self._print([HEAD, *rows])
        if options["dry_run"]:
            return
        written = reprice(scope, actor="reprice")
        self.stdout.write(f"{written} corrections written.")

    def _tell_of_closed(self, scope: Scope) -> None:
        end = ClosedMonth.objects.end()
        if end is not None and scope.start < end:
            self.stdout.write(f"Months before {end:%Y-%m} are closed: their calls are left alone.")

    def _print(self, rows: list[tuple[str, ...]]) -> None:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                cell.rjust(width) if 3 <= at <= 6 else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self.stdout.write("  ".join(cells).rstrip())


def _rows(found: Iterable[Repriced]) -> list[tuple[str, ...]]:
    """One row for each service, version, version in force and currency that differ, and one for all, by currency."""
    sums: dict[tuple[Any, ...], list[Any]] = defaultdict(lambda: [0, ZERO, ZERO])
    totals: dict[str, list[Any]] = defaultdict(lambda: [0, ZERO, ZERO])
    for each in found:
        record = each.record
        _count(totals[record.currency], each)
        if each.should_cost is None or each.difference:
            key = (record.service_id, record.price_version_id, each.version_id, record.currency)
            _count(sums[key, each.left_alone], each)
    names = {
        service.id: str(service) for service in Service.objects.filter(id__in={key[0][0] for key in sums})
    }
    rows = [
        (names[service], _short(charged_at), _short(in_force), *_told(amounts, currency), left_alone)
        for ((service, charged_at, in_force, currency), left_alone), amounts in sorted(sums.items(), key=str)
    ]  # fmt: skip
    return rows + [
        ("all", "", "", *_told(amounts, currency), "") for currency, amounts in sorted(totals.items())
    ]


def _count(sums: list[Any], each: Repriced) -> None:
    sums[0] += 1
    sums[1] = EXACT.add(sums[1], each.costs)
    sums[2] = EXACT.add(sums[2], each.costs if each.should_cost is None else each.should_cost)


def _told(sums: list[Any], currency: str) -> tuple[str, ...]:
    calls, costs, should_cost = sums
    difference: Decimal = EXACT.subtract(should_cost, costs)
    return (f"{calls:,}", *(f"{plain(amount)} {currency}" for amount in (costs, should_cost, difference)))


def _short(version_id: uuid.UUID | None) -> str:
    return "none" if version_id is None else str(version_id)[:8]
