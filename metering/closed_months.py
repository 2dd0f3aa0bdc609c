"""Closing a month: from one commit on, none of its rows comes, changes or goes.

Whether it may close is decided above (``finance.periods``); here is what makes it so.
"""

import datetime as dt

from django.db import connection

from common import clock
from common.money import plain
from metering import guards, partitions
from metering.models import ClosedMonth

_SUMS = """
    SELECT currency, count(*), count(*) FILTER (WHERE kind = 'correction'), sum(total_tokens), sum(cost_amount)
    FROM usage_records WHERE "timestamp" >= %s AND "timestamp" < %s GROUP BY 1 ORDER BY 1
"""


def hold_writers() -> None:
    """Wait for every transaction that writes the ledger, and let none begin before the caller's ends.

    Whoever writes the ledger moves a journal's position first (``metering.positions``), so that this one lock, taken
    before any other, is met by all of them, and in no circle.
    """
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE journal_positions IN SHARE ROW EXCLUSIVE MODE")


def freeze(month: dt.date, *, closed_by: str) -> ClosedMonth:
    """Close a month, in the caller's transaction, which has called ``hold_writers``."""
    end = clock.month_start(clock.next_month(month))
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [clock.month_start(month), end])
        sums = cursor.fetchall()
    closed = ClosedMonth.objects.create(
        month=month,
        closed_by=closed_by,
        records=sum(row[1] for row in sums),
        corrections=sum(row[2] for row in sums),
        tokens=sum(row[3] for row in sums),
        totals={row[0]: plain(row[4]) for row in sums},
    )
    partitions.make([month])
    guards.guard_partition(partitions.name_of(month))
    guards.guard_sums(end)
    return closed
