"""What the ledger remembers of requests whose rows are archived, so that what comes late for them still counts once.

Rows go to a file and their partition goes (``finance.archives``); of each request 25 bytes stay: its id, whether it was
settled, and a fingerprint of whose it was and, where it was settled, of its amounts. That is what ``metering.ledger``
asks a row of a closed month for. They are written before the partition is detached and stay for ever, also where the
month is restored, so that there is no moment without either.
"""

import datetime as dt
import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from common import clock
from common.errors import Problem
from common.money import plain
from metering.journal import TOKEN_COUNTS, Entry
from metering.lines import Line

#: Requests in one row: about what is read to look up one of them, times 25 bytes.
_TOGETHER = 2_000
_IDENTITY = "r.consumer_id, r.service_id, r.api_key_id"
_TOKENS = ", ".join(f"coalesce((r.usage->>'{name}')::bigint, 0)" for name in TOKEN_COUNTS)
_AMOUNTS = f"{_TOKENS}, r.price_version_id, r.currency, trim_scale(r.cost_amount)"


def _fingerprint_sql(parts: str) -> str:
    """``_fingerprint`` in SQL."""
    return rf"substr(sha256(convert_to(concat_ws('|', {parts}), 'UTF8')), 1, 8)"


# Corrections by a person or of a price say nothing of whether a settle came; those by a journal are the settle.
_REMEMBER = rf"""
    INSERT INTO archived_requests (month, first, packed)
    SELECT %(month)s, (array_agg(request_id ORDER BY request_id))[1], string_agg(entry, '' ORDER BY request_id)
    FROM (
        SELECT request_id, entry, (row_number() OVER (ORDER BY request_id) - 1) / {_TOGETHER} AS part FROM (
            SELECT DISTINCT ON (r.request_id) r.request_id, uuid_send(r.request_id) || CASE r.status
                WHEN 'unsettled' THEN '\x00'::bytea || {_fingerprint_sql(_IDENTITY)}
                ELSE '\x01'::bytea || {_fingerprint_sql(f"{_IDENTITY}, {_AMOUNTS}")} END AS entry
            FROM {{table}} r WHERE r.kind = 'usage' OR r.settlement NOT IN ('manual', 'repriced')
            ORDER BY r.request_id, r.status = 'unsettled', r.id
        ) entries
    ) parts GROUP BY part ON CONFLICT (month, first) DO NOTHING
"""  # noqa: S608 - constants  # nosec B608
_KNOWN = """
    SELECT wanted.id, substr(there.packed, position(uuid_send(wanted.id) IN there.packed) + 16, 9)
    FROM unnest(%s::uuid[]) AS wanted (id) CROSS JOIN closed_months closed CROSS JOIN LATERAL (
        SELECT packed FROM archived_requests a WHERE a.month = closed.month AND a.first <= wanted.id
        ORDER BY a.first DESC LIMIT 1
    ) there
    WHERE position(uuid_send(wanted.id) IN there.packed) > 0
"""
_AWAY = """
    SELECT month FROM closed_months c
    WHERE EXISTS (SELECT FROM archived_requests a WHERE a.month = c.month) AND NOT EXISTS (
        SELECT FROM pg_inherits WHERE inhparent = 'usage_records'::regclass AND NOT inhdetachpending
            AND inhrelid = to_regclass(to_char(c.month, '"usage_records_"YYYY_MM'))
    ) ORDER BY month
"""


class UsageArchived(Problem):
    code, status, title = "usage_archived", 409, "Rows of these months are archived"


@dataclass(frozen=True, slots=True)
class Remembered:
    """One request of an archived month."""

    is_settled: bool
    fingerprint: bytes

    def agrees(self, line: Line) -> bool:
        """Whether the line is of the same caller and, where the request was settled, has the same amounts."""
        return self.fingerprint == _fingerprint(line, self.is_settled)


def remember(month: dt.date, table: str) -> None:
    """Keep what has to be known of a closed month's requests, out of its partition. In the caller's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(_REMEMBER.format(table=table), {"month": month})


def is_remembered(month: dt.date) -> bool:
    """Whether the month's rows are, or were at some time, in the archive."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM archived_requests WHERE month = %s)", [month])
        return bool(cursor.fetchone()[0])


def known(ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, Remembered]:
    """Those of the requests that are in the archive. One that was settled in a later month counts as settled."""
    wanted = list(set(ids))
    found: dict[uuid.UUID, Remembered] = {}
    if wanted:
        with connection.cursor() as cursor:
            cursor.execute(_KNOWN, [wanted])
            for id_, entry in cursor.fetchall():
                is_settled, *fingerprint = bytes(entry)
                remembered = Remembered(bool(is_settled), bytes(fingerprint))
                if remembered.is_settled or id_ not in found:
                    found[id_] = remembered
    return found


def months_away(at: BaseDatabaseWrapper | None = None) -> list[dt.date]:
    """Months that had rows which the ledger does not have any more, in the database session ``at``."""
    with (at or connection).cursor() as cursor:
        cursor.execute(_AWAY)
        return [month for (month,) in cursor.fetchall()]


def months_away_of(
    start: dt.datetime, end: dt.datetime, at: BaseDatabaseWrapper | None = None
) -> list[dt.date]:
    """Those of them that ``[start, end)`` has a part of."""
    return [
        month
        for month in months_away(at)
        if clock.month_start(clock.next_month(month)) > start and clock.month_start(month) < end
    ]


def require_there(start: dt.datetime, end: dt.datetime, at: BaseDatabaseWrapper | None = None) -> None:
    """Raise ``UsageArchived`` where the ledger has not all rows of ``[start, end)``: else too few would answer."""
    away = months_away_of(start, end, at)
    if away:
        raise UsageArchived(sentence(away))


def sentence(months: Iterable[dt.date]) -> str:
    """What people are told of months that are away."""
    names = ", ".join(f"{month:%Y-%m}" for month in months)
    return f"Rows of {names} are in the archive: manage.py partitions restore brings a month back."


def _fingerprint(line: Line, with_amounts: bool) -> bytes:
    entry = line.entry
    parts = [entry.consumer_id, entry.service_id, entry.api_key_id]
    amounts = _amounts(entry, line) if with_amounts else []
    return hashlib.sha256("|".join(map(str, [*parts, *amounts])).encode()).digest()[:8]


def _amounts(entry: Entry, line: Line) -> list[object]:
    tokens = [getattr(entry, name) for name in TOKEN_COUNTS]
    return [*tokens, entry.price_version_id, entry.currency, plain(line.cost)]
