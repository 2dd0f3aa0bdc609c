"""Month partitions of the ledger: made ahead of time, and on the spot where one is missing after all."""

import datetime as dt
from collections.abc import Iterable

from django.db import connection, transaction

from common import clock
from metering import archived, guards
from metering.models import ClosedMonth

MONTHS_AHEAD = 3
#: Whoever makes partitions holds this, so that two at once do not meet half-made tables.
_LOCK = 0x70617274


def make_ahead() -> list[str]:
    """This month's partition and the next three; returns the names of those that were made."""
    month = clock.month_of(clock.now())
    months = [month]
    for _ in range(MONTHS_AHEAD):
        months.append(clock.next_month(months[-1]))
    return make(months)


def make(months: Iterable[dt.date]) -> list[str]:
    """Partitions of months (first days) where there is none; returns the names of those that were made.

    A table is built beside the ledger and then attached: that does not wait for writers, nor they for it. What is
    archived stays away, until somebody restores it.
    """
    made = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        for month in sorted(set(months)):
            name = name_of(month)
            if not exists(month) and not archived.is_remembered(month):
                create(month)
                attach(month)
                if _is_closed(month):
                    guards.guard_partition(name)
                made.append(name)
    return made


def create(month: dt.date) -> str:
    """A table for a month's rows, beside the ledger."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE {name_of(month)} (LIKE usage_records INCLUDING ALL)")
    return name_of(month)


def attach(month: dt.date) -> None:
    """Make a month's table part of the ledger."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"ALTER TABLE usage_records ATTACH PARTITION {name_of(month)} FOR VALUES FROM (%s) TO (%s)",
            [_midnight(month), _midnight(clock.next_month(month))],
        )


def detach(month: dt.date) -> None:
    """Take a month's table out of the ledger, where it is part of it. It stays as it is, beside it.

    Waits for whoever reads the ledger, and keeps nobody from writing it. Outside of any transaction; goes on where it
    was killed.
    """
    place = _place(month)
    if place is None:
        return
    with connection.cursor() as cursor:
        how = "FINALIZE" if place == _BETWEEN else "CONCURRENTLY"
        cursor.execute(f"ALTER TABLE usage_records DETACH PARTITION {name_of(month)} {how}")


def drop(month: dt.date) -> None:
    """Remove a month's table, which is not part of the ledger."""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE {name_of(month)}")


def exists(month: dt.date) -> bool:
    """Whether there is a table of the month, in the ledger or beside it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [name_of(month)])
        return bool(cursor.fetchone()[0])


def is_attached(month: dt.date) -> bool:
    """Whether whoever asks the ledger is told of the month."""
    return _place(month) == _WITHIN


_WITHIN, _BETWEEN = "within", "between"


def _place(month: dt.date) -> str | None:
    """None: beside the ledger, or nowhere. Whose detaching was killed is in between."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhdetachpending FROM pg_inherits"
            " WHERE inhparent = 'usage_records'::regclass AND inhrelid = to_regclass(%s)",
            [name_of(month)],
        )
        found = cursor.fetchone()
    return None if found is None else _BETWEEN if found[0] else _WITHIN


def name_of(month: dt.date) -> str:
    """The table that has a month's rows of the ledger."""
    return f"usage_records_{month:%Y_%m}"


def up_to(month: dt.date) -> list[str]:
    """The tables of this month and of all before it."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
            WHERE inhparent = 'usage_records'::regclass AND relname <= %s ORDER BY relname
            """,
            [name_of(month)],
        )
        return [row[0] for row in cursor.fetchall()]


def _is_closed(month: dt.date) -> bool:
    """Months that had no partition are closed with the next one that closes."""
    end = ClosedMonth.objects.end()
    return end is not None and clock.month_start(month) < end


class Known:
    """Months that are known to have a partition: asks the database once a month, not once a batch."""

    def __init__(self) -> None:
        self._months: set[dt.date] = set()

    def ensure(self, months: set[dt.date]) -> None:
        """Make what is missing. Outside of any transaction that writes the ledger."""
        if not months <= self._months:
            make(months)
            self._months |= months

    def forget(self) -> None:
        self._months.clear()


def _midnight(month: dt.date) -> str:
    return f"{month:%Y-%m-%d} 00:00:00+00"
