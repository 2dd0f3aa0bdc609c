"""Ledger, rollups and quota periods, compared in one moment by service and consumer; and who of them is at fault.

Rollups are by hour and by day. All are written in one transaction, so in one moment they agree exactly, in everything
that a rollup adds up: statements are made of it. Where one disagrees with the other two, it is the one that is wrong; a
row of the ledger that contradicts itself is wrong whatever the others say.
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
from metering.journal import TOKEN_COUNTS
from metering.rollups import SUMS

_Source = Difference.Source
#: Hours and rows that a cause names at most.
MOST_NAMED = 3

#: What is told: calls, then corrections, which no quota counts.
_KINDS = ("usage", "correction")
#: Whose sums are compared: each of them alone may be what a row was changed in.
_OWNERS = "consumer_id, service_id, currency, kind, api_key_id, price_version_id, tier, status"
_OF_ROWS = {
    "requests": "count(*)",
    "charged": "count(*) FILTER (WHERE usage->>'usage_source' <> 'none')",
    **{name: f"coalesce(sum((usage->>'{name}')::bigint), 0)" for name in TOKEN_COUNTS},
    "upstream_requests": "count(cost->>'upstream')",
    "upstream_amount": "coalesce(sum((cost->>'upstream')::numeric), 0)",
}
_ROWS_SUMMED = ", ".join(f"{_OF_ROWS.get(name, f'sum({name})')} AS {name}" for name in SUMS)
_SUMMED = ", ".join(f"sum({name}) AS {name}" for name in SUMS)


def _all_of(book: str) -> str:
    return "ROW(" + ", ".join(f"coalesce({book}.{name}, 0)" for name in SUMS) + ")"


_LEDGER, _BY_HOUR, _BY_DAY = map(_all_of, "lrd")
_TOLD = (("n", "requests"), ("t", "total_tokens"), ("c", "cost_amount"))
_BOTH = ", ".join(f"{book}.{name} AS {book}_{short}" for book in "lrd" for short, name in _TOLD)
_BY_KIND = ", ".join(
    f"coalesce(sum({book}_{short}) FILTER (WHERE kind = '{kind}'), 0) AS {book}_{short}_{kind}"
    for book in "lrd"
    for kind in _KINDS
    for short, _ in _TOLD
)
_SUMS = f"""
    WITH ledger AS (
        SELECT date_trunc('month', "timestamp" AT TIME ZONE 'UTC')::date AS month, {_OWNERS}, {_ROWS_SUMMED}
        FROM usage_records WHERE "timestamp" >= %(start)s AND "timestamp" < %(end)s
        GROUP BY 1, {_OWNERS}
    ), rollup AS (
        SELECT date_trunc('month', hour AT TIME ZONE 'UTC')::date AS month, {_OWNERS}, {_SUMMED}
        FROM usage_rollups WHERE hour >= %(start)s AND hour < %(end)s GROUP BY 1, {_OWNERS}
    ), daily AS (
        SELECT date_trunc('month', day)::date AS month, {_OWNERS}, {_SUMMED}
        FROM usage_daily_rollups WHERE day >= %(start)s::date AND day < %(end)s::date GROUP BY 1, {_OWNERS}
    ), owners AS (
        SELECT month, {_OWNERS}, {_BOTH}, {_LEDGER} <> {_BY_HOUR} AS hours_differ,
            {_LEDGER} <> {_BY_DAY} AS days_differ, {_BY_HOUR} <> {_BY_DAY} AS rollups_differ
        FROM ledger l FULL JOIN rollup r USING (month, {_OWNERS}) FULL JOIN daily d USING (month, {_OWNERS})
    ), pairs AS (
        SELECT month, consumer_id, service_id, currency, {_BY_KIND},
            bool_or(hours_differ) AS hours_differ, bool_or(days_differ) AS days_differ,
            bool_or(rollups_differ) AS rollups_differ
        FROM owners GROUP BY 1, 2, 3, 4
    )
    SELECT p.*, sum(l_t_usage) OVER same, sum(r_t_usage) OVER same, coalesce(q.used, 0)
    FROM pairs p LEFT JOIN quota_periods q USING (month, consumer_id, service_id)
    WINDOW same AS (PARTITION BY month, consumer_id, service_id)
    UNION ALL
    SELECT month, consumer_id, service_id, '', {", ".join(["0"] * 18)}, false, false, false, 0, 0, used
    FROM quota_periods q WHERE month >= %(start)s::date AND month < %(end)s::date AND NOT EXISTS (
        SELECT FROM pairs p WHERE (p.month, p.consumer_id, p.service_id) = (q.month, q.consumer_id, q.service_id)
    )
"""  # noqa: S608 - constants  # nosec B608
_HOURS = f"""
    SELECT DISTINCT hour FROM (
        SELECT date_trunc('hour', "timestamp", 'UTC') AS hour, {_OWNERS}, {_ROWS_SUMMED}
        FROM usage_records WHERE consumer_id = %(consumer)s AND service_id = %(service)s
            AND "timestamp" >= %(start)s AND "timestamp" < %(end)s GROUP BY 1, {_OWNERS}
    ) l FULL JOIN (
        SELECT hour, {_OWNERS}, {_SUMMED} FROM usage_rollups
        WHERE consumer_id = %(consumer)s AND service_id = %(service)s AND hour >= %(start)s AND hour < %(end)s
        GROUP BY 1, {_OWNERS}
    ) r USING (hour, {_OWNERS}) WHERE {_LEDGER} <> {_BY_HOUR} ORDER BY hour
"""  # noqa: S608 - constants  # nosec B608
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
        self.hours_differ, self.days_differ, self.rollups_differ = row[22:25]
        self.ledger_tokens, self.rollup_tokens, self.period_tokens = (int(tokens) for tokens in row[25:28])

    @property
    def agrees(self) -> bool:
        return not (self.hours_differ or self.days_differ) and self.ledger_tokens == self.period_tokens

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
        if not (self.hours_differ or self.days_differ):
            return _Source.PERIOD
        return _Source.LEDGER if self._is_ledger_alone else _Source.ROLLUP

    @property
    def _is_ledger_alone(self) -> bool:
        """Whether it is the ledger that two others differ from. The quota period knows of tokens alone."""
        if not (self.hours_differ and self.days_differ):
            return False
        if self.ledger_tokens != self.period_tokens:
            return True
        return self.rollup_tokens == self.period_tokens and not self.rollups_differ

    def _cause(self, hours: list[dt.datetime], rows: list[uuid.UUID]) -> str:
        parts = (
            ["rows of the ledger contradict themselves: " + _named(rows)] if rows else list(self._causes())
        )
        if (self.hours_differ or self.days_differ) and self.ledger == self.rollup == self.daily:
            parts.append("the sums agree, but not by key, price version, tier, status, and kind of token")
        if hours:
            parts.append("in the hours " + _named(f"{hour:%Y-%m-%d %H}h" for hour in hours))
        return "; ".join(parts)

    def _causes(self) -> Iterable[str]:
        if self.hours_differ and self.days_differ:
            yield self._cause_of_both()
        elif self.hours_differ or self.days_differ:
            hour, day = ("hour", "day") if self.hours_differ else ("day", "hour")
            yield f"the rollups differ from the ledger by {hour}, and not by {day}"
        if not (self.hours_differ and self.days_differ) and self.ledger_tokens != self.period_tokens:
            yield "the quota period differs from ledger and rollups"

    def _cause_of_both(self) -> str:
        if self.ledger_tokens == self.period_tokens:
            if self._is_ledger_alone:
                return "the ledger differs from the rollups by hour and by day, which agree"
            if self.rollup_tokens == self.period_tokens:
                return "ledger, rollups by hour and rollups by day all differ"
            return "the rollups differ from the ledger, which the quota period bears out"
        if self.rollup_tokens == self.period_tokens:
            return "the ledger differs from rollups and quota period, which agree"
        return "ledger, rollups and quota period all differ"


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
