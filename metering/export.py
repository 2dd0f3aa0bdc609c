"""Usage as CSV for a range of days: streamed in pages of the ledger's own order, never held as a whole."""

import csv
import datetime as dt
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from accounts.models import Consumer, User
from catalog.models import Service
from common import clock
from common.money import plain
from metering import archived
from metering.journal import TOKEN_COUNTS
from metering.models import UsageRecord

PAGE = 2_000
#: Members may export, and superusers.
FINANCE_GROUP = "finance"

COLUMNS = (
    "timestamp", "request_id", "record_id", "kind", "corrects", "consumer_id", "consumer", "service_id", "service",
    "api_key_id", "tier", "status", "error", "settlement", "duration_ms", *TOKEN_COUNTS,
    "total_tokens", "usage_source", "cost", "currency", "price_version_id",
)  # fmt: skip

#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


class _Echo:
    """A file that gives back each line instead of keeping it."""

    def write(self, line: str) -> str:
        return line


def may_export(user: Any) -> bool:
    """Superusers, members of the finance group, and whoever holds the permission by name."""
    if not isinstance(user, User) or not user.is_active:
        return False
    return user.has_perm("metering.export_usagerecord") or user.groups.filter(name=FINANCE_GROUP).exists()


def csv_lines(*, first: dt.date, last: dt.date) -> Iterator[str]:
    """The head and one line a record of the UTC days ``first`` to ``last``, both included, oldest first."""
    writer = csv.writer(_Echo())
    yield writer.writerow(COLUMNS)
    names = _Names()
    for page in _pages(_midnight(first), _midnight(last + dt.timedelta(days=1))):
        names.learn(page)
        yield "".join([writer.writerow(_row(record, names)) for record in page])
    # Where a month was archived meanwhile, the answer breaks off instead of ending too early.
    archived.require_there(_midnight(first), _midnight(last + dt.timedelta(days=1)))


def months_away(first: dt.date, last: dt.date) -> list[dt.date]:
    """Months of these days whose rows are in the archive."""
    return archived.months_away_of(_midnight(first), _midnight(last + dt.timedelta(days=1)))


def _midnight(day: dt.date) -> dt.datetime:
    return dt.datetime(day.year, day.month, day.day, tzinfo=clock.UTC)


def _pages(start: dt.datetime, end: dt.datetime) -> Iterator[list[UsageRecord]]:
    """Ids are made of time, so the primary key gives the order, and each page begins where the last one ended."""
    records = UsageRecord.objects.filter(timestamp__gte=start, timestamp__lt=end).order_by("id")
    page = list(records[:PAGE])
    while page:
        yield page
        page = list(records.filter(id__gt=page[-1].id)[:PAGE]) if len(page) == PAGE else []


class _Names:
    """What consumers and services are called. Looked up by page: a join would drop rows whose consumer is gone."""

    def __init__(self) -> None:
        self._names: dict[uuid.UUID, str] = {}

    def learn(self, page: Iterable[UsageRecord]) -> None:
        consumers = {record.consumer_id for record in page} - self._names.keys()
        services = {record.service_id for record in page} - self._names.keys()
        if consumers:
            self._names |= {row.id: row.name for row in Consumer.objects.filter(id__in=consumers)}
        if services:
            self._names |= {row.id: str(row) for row in Service.objects.filter(id__in=services)}

    def of(self, id_: uuid.UUID) -> str:
        return self._names.get(id_, "")


def _row(record: UsageRecord, names: _Names) -> tuple[Any, ...]:
    usage = record.usage
    return (
        record.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"), record.request_id, record.id,
        record.kind, record.corrects, record.consumer_id, harmless(names.of(record.consumer_id)),
        record.service_id, harmless(names.of(record.service_id)), record.api_key_id, harmless(record.tier_id),
        record.status, harmless(str((record.error or {}).get("code", ""))), record.settlement,
        record.duration_ms, *[usage.get(name, 0) for name in TOKEN_COUNTS], record.total_tokens,
        usage.get("usage_source", ""), plain(record.cost_amount), record.currency, record.price_version_id,
    )  # fmt: skip


def harmless(text: str) -> str:
    """Text that no spreadsheet takes for a formula. Numbers do not pass through here."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
