"""Closing a month: from one commit on, none of its rows comes, changes or goes.

Whether it may close is decided above (``finance.periods``); here is what makes it so.
"""

import datetime as dt
from decimal import Decimal, localcontext

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from common import clock
from common.money import ZERO, plain
from metering import guards, partitions
from metering.models import ClosedMonth, UsageRecord

#: Out of the rollups, which are written with every row and are a fraction of them: writers wait meanwhile.
_SUMS = """
    SELECT kind, status, currency, sum(requests)::bigint, sum(total_tokens)::bigint, sum(cost_amount)
    FROM usage_daily_rollups WHERE day >= %s AND day < %s AND requests > 0 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""
#: Kind, status, currency; how many rows, their tokens, what they cost.
Sums = list[tuple[str, str, str, int, int, Decimal]]


def sums(at: BaseDatabaseWrapper, month: dt.date) -> Sums:
    """What a month comes to, in the database session ``at``. Whatever is written of the month changes it."""
    with at.cursor() as cursor:
        cursor.execute(_SUMS, [month, clock.next_month(month)])
        return list(cursor.fetchall())


def hold_writers() -> None:
    """Wait for every transaction that writes the ledger, and let none begin before the caller's ends.

    Whoever writes the ledger moves a journal's position first (``metering.positions``), so that this one lock, taken
    before any other, is met by all of them, and in no circle.
    """
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE journal_positions IN SHARE ROW EXCLUSIVE MODE")


def freeze(month: dt.date, *, closed_by: str) -> ClosedMonth:
    """Close a month, in the caller's transaction, which has called ``hold_writers``."""
    found = sums(connection, month)
    totals: dict[str, Decimal] = {}
    with localcontext() as context:
        context.prec = 60
        for _, _, currency, _, _, cost in found:
            totals[currency] = totals.get(currency, ZERO) + cost
    closed = ClosedMonth.objects.create(
        month=month,
        closed_by=closed_by,
        records=sum(row[3] for row in found),
        corrections=sum(row[3] for row in found if row[0] == UsageRecord.Kind.CORRECTION),
        tokens=sum(row[4] for row in found),
        totals={currency: plain(cost) for currency, cost in sorted(totals.items())},
    )
    partitions.make([month])
    for name in partitions.up_to(month):
        guards.guard_partition(name)
    guards.guard_sums(clock.month_start(clock.next_month(month)))
    return closed
