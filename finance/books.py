"""Ledger, rollups and quota periods, compared in one moment by service and consumer; and who of them is at fault.

Rollups are by hour and by day. All are written in one transaction, so in one moment they agree exactly. Where one
disagrees with the other two, it is the one that is wrong; a row of the ledger that contradicts itself is wrong whatever
the others say.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from common import clock
from common.money import ZERO, plain
from finance.models import Difference
from metering import archived

_Source = Difference.Source
#: Hours and rows that a cause names at most.
MOST_NAMED = 3

#: What is compared: calls, then corrections, which no quota counts.
_KINDS = ("usage", "correction")


def _sums(requests: str) -> str:
    """Requests, tokens and cost of each kind, as columns ``n…``, ``t…`` and ``c…``."""
    return ", ".join(
        f"coalesce({what} FILTER (WHERE kind = '{kind}'), 0) AS {name}_{kind}"
        for kind in _KINDS
        for name, what in (("n", requests), ("t", "sum(total_tokens)"), ("c", "sum(cost_amount)"))
    )


_COLUMNS = [f"{name}_{kind}" for kind in _KINDS for name in "ntc"]
_ALL = ", ".join(f"coalesce({book}.{column}, 0)" for book in "lrd" for column in _COLUMNS)
_SUMS = f"""
    WITH ledger AS (
        SELECT date_trunc('month', "timestamp" AT TIME ZONE 'UTC')::date AS month, consumer_id, service_id, currency,
            {_sums("count(*)")}
        FROM usage_records WHERE "timestamp" >= %(start)s AND "timestamp" < %(end)s GROUP BY 1, 2, 3, 4
    ), rollup AS (
        SELECT date_trunc('month', hour AT TIME ZONE 'UTC')::date AS month, consumer_id, service_id, currency,
            {_sums("sum(requests)")}
        FROM usage_rollups WHERE hour >= %(start)s AND hour < %(end)s GROUP BY 1, 2, 3, 4
    ), daily AS (
        SELECT date_trunc('month', day)::date AS month, consumer_id, service_id, currency, {_sums("sum(requests)")}
        FROM usage_daily_rollups WHERE day >= %(start)s::date AND day < %(end)s::date GROUP BY 1, 2, 3, 4
    ), pairs AS (
        SELECT month, consumer_id, service_id, currency, {_ALL},
            sum(coalesce(l.t_usage, 0)) OVER same, sum(coalesce(r.t_usage, 0)) OVER same
        FROM ledger l FULL JOIN rollup r USING (month, consumer_id, service_id, currency)
            FULL JOIN daily d USING (month, consumer_id, service_id, currency)
        WINDOW same AS (PARTITION BY month, consumer_id, service_id)
    )
    SELECT p.*, coalesce(q.used, 0)
    FROM pairs p LEFT JOIN quota_periods q USING (month, consumer_id, service_id)
    UNION ALL
    SELECT month, consumer_id, service_id, '', {", ".join(["0"] * 20)}, used
    FROM quota_periods q WHERE month >= %(start)s::date AND month < %(end)s::date AND NOT EXISTS (
        SELECT FROM pairs p WHERE (p.month, p.consumer_id, p.service_id) = (q.month, q.consumer_id, q.service_id)
    )
"""  # noqa: S608 - constants  # nosec B608
_HOURS = """
    SELECT DISTINCT hour FROM (
        SELECT date_trunc('hour', "timestamp", 'UTC') AS hour, kind, count(*) AS n, sum(total_tokens) AS t,
            sum(cost_amount) AS c
        FROM usage_records WHERE consumer_id = %(consumer)s AND service_id = %(service)s
            AND "timestamp" >= %(start)s AND "timestamp" < %(end)s GROUP BY 1, 2
    ) l FULL JOIN (
        SELECT hour, kind, sum(requests) AS n, sum(total_tokens) AS t, sum(cost_amount) AS c FROM usage_rollups
        WHERE consumer_id = %(consumer)s AND service_id = %(service)s AND hour >= %(start)s AND hour < %(end)s
        GROUP BY 1, 2
    ) r USING (hour, kind)
    WHERE (coalesce(l.n, 0), coalesce(l.t, 0), coalesce(l.c, 0))
        <> (coalesce(r.n, 0), coalesce(r.t, 0), coalesce(r.c, 0)) ORDER BY hour
"""
_CONTRADICTIONS = """
    SELECT id FROM usage_records
    WHERE consumer_id = %(consumer)s AND service_id = %(service)s AND "timestamp" >= %(start)s AND "timestamp" < %(end)s
        AND (total_tokens, cost_amount) IS DISTINCT FROM (
            (usage->>'prompt_tokens')::bigint + (usage->>'completion_tokens')::bigint, (cost->>'amount')::numeric
        ) ORDER BY id
"""


class Pair:
    """One service and consumer in one month and currency, as the three books have them."""

    def __init__(self, row: Sequence[Any]) -> None:
        self.month, self.consumer_id, self.service_id, self.currency = row[:4]
        self.ledger, self.rollup, self.daily = tuple(row[4:10]), tuple(row[10:16]), tuple(row[16:22])
        self.ledger_tokens, self.rollup_tokens, self.period_tokens = (int(tokens) for tokens in row[22:25])

    @property
    def agrees(self) -> bool:
        return self.ledger == self.rollup == self.daily and self.ledger_tokens == self.period_tokens

    def difference(self, hours: list[dt.datetime], rows: list[uuid.UUID]) -> Difference:
        return Difference(
            source=self._at_fault(rows),
            month=self.month,
            consumer_id=self.consumer_id,
            service_id=self.service_id,
            ledger={**self._told(self.ledger), "month_tokens": self.ledger_tokens},
            other={**self._told(self.rollup), **self._told_of_days(), "period_tokens": self.period_tokens},
            cause=self._cause(hours, rows),
        )

    def _told(self, sums: tuple[Any, ...]) -> dict[str, Any]:
        told: dict[str, Any] = {"currency": self.currency}
        for prefix, (requests, tokens, cost) in (("", sums[:3]), ("corrected_", sums[3:])):
            if prefix == "" or any(sums[3:]):
                told[f"{prefix}requests"], told[f"{prefix}tokens"] = int(requests), int(tokens)
                told[f"{prefix}cost"] = plain(cost or ZERO)
        return told

    def _told_of_days(self) -> dict[str, Any]:
        if self.daily == self.rollup:
            return {}
        return {f"daily_{name}": told for name, told in self._told(self.daily).items() if name != "currency"}

    def _at_fault(self, rows: list[uuid.UUID]) -> str:
        if rows:
            return _Source.LEDGER
        if self.ledger == self.rollup:
            return _Source.ROLLUP if self.ledger_tokens == self.period_tokens else _Source.PERIOD
        return _Source.ROLLUP if self.ledger_tokens == self.period_tokens else _Source.LEDGER

    def _cause(self, hours: list[dt.datetime], rows: list[uuid.UUID]) -> str:
        parts = []
        if rows:
            parts.append("rows of the ledger contradict themselves: " + _named(rows))
        elif self.ledger == self.rollup:
            if self.ledger_tokens != self.period_tokens:
                parts.append("the quota period differs from ledger and rollups")
        elif self.ledger_tokens == self.period_tokens:
            parts.append("the rollups differ from the ledger, which the quota period bears out")
        elif self.rollup_tokens == self.period_tokens:
            parts.append("the ledger differs from rollups and quota period, which agree")
        else:
            parts.append("ledger, rollups and quota period all differ")
        if self.daily != self.rollup:
            parts.append("the rollups by day differ from those by hour")
        if hours:
            parts.append("in the hours " + _named(f"{hour:%Y-%m-%d %H}h" for hour in hours))
        return "; ".join(parts)


def compare(moment: BaseDatabaseWrapper, months: Iterable[dt.date]) -> tuple[int, list[Difference]]:
    """How many pairs there are in these months, and the differences among them, not saved. Raises ``UsageArchived``."""
    count, differences = 0, []
    for month in months:
        archived.require_there(clock.month_start(month), clock.month_start(clock.next_month(month)), moment)
        pairs = [Pair(row) for row in _ask(moment, _SUMS, _span(month))]
        count += len(pairs)
        differences += [_explained(moment, pair) for pair in pairs if not pair.agrees]
    return count, differences


def _explained(moment: BaseDatabaseWrapper, pair: Pair) -> Difference:
    span = {**_span(pair.month), "consumer": pair.consumer_id, "service": pair.service_id}
    hours = [row[0].astimezone(clock.UTC) for row in _ask(moment, _HOURS, span)]
    rows = [row[0] for row in _ask(moment, _CONTRADICTIONS, span)] if hours else []
    return pair.difference(hours, rows)


def _span(month: dt.date) -> dict[str, Any]:
    return {"start": clock.month_start(month), "end": clock.month_start(clock.next_month(month))}


def _ask(moment: BaseDatabaseWrapper, question: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    with moment.cursor() as cursor:
        cursor.execute(question, values)
        return list(cursor.fetchall())


def _named(things: Iterable[object]) -> str:
    names = [str(thing) for thing in things]
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
