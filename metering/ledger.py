"""The merge of journal entries into the ledger: each request once, whatever arrives twice, late or out of order.

| ledger has                        | arrives                          | done                                   |
|-----------------------------------|----------------------------------|----------------------------------------|
| nothing, month open               | any                              | insert                                 |
| nothing, month closed             | any                              | correction, in the month that is open  |
| unsettled, month open             | settled                          | update once, rollups by the difference |
| unsettled, voided or month closed | settled                          | correction                             |
| settled                           | unsettled, or the same again     | nothing                                |
| settled                           | other amounts                    | refused as ``conflict``                |

Of a month whose rows are archived, ``metering.archived`` says what the ledger had.
"""

import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, DataError, IntegrityError, connection, transaction

from common import clock
from common.ids import moment_of
from metering import archived, binary_copy, rollups
from metering.journal import TOKEN_COUNTS, Entry
from metering.lines import COLUMNS, Line
from metering.models import ClosedMonth, DeadLetter, UsageRecord
from metering.rollups import Deltas

_COLUMNS = ", ".join(COLUMNS)
# Inserts what is absent, and answers with what was not.
_INSERT = f"""
    WITH inserted AS (
        INSERT INTO usage_records ({_COLUMNS}) SELECT {_COLUMNS} FROM staged_lines
        ON CONFLICT (id, "timestamp") DO NOTHING RETURNING id
    )
    SELECT id FROM staged_lines WHERE id NOT IN (SELECT id FROM inserted)
"""  # noqa: S608 - constants  # nosec B608
#: Classes of SQLSTATE that say the data is at fault: data exception, integrity, program limit exceeded.
_FAULTS_OF_DATA = ("22", "23", "54")
_CHECK_VIOLATION = "23514"
_UNSETTLED, _BY_HAND = UsageRecord.Status.UNSETTLED, UsageRecord.Settlement.MANUAL


class MissingPartition(Exception):
    """A line's month has no partition. Nothing was written; make it and come again."""


@dataclass(slots=True)
class Refused:
    """A line that cannot become a row, and why."""

    line: Line
    reason: str
    detail: str


@dataclass(slots=True)
class Changes:
    """What a merge did. ``changed``: lines that were written; one request twice where both its entries were."""

    changed: list[Line] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)

    def extend(self, other: "Changes") -> None:
        self.changed += other.changed
        self.refused += other.refused


def prepare() -> None:
    """Make the session's staging tables. Once a connection, before the first merge."""
    rollups.prepare()
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMP TABLE IF NOT EXISTS staged_lines (LIKE usage_records) ON COMMIT DELETE ROWS"
        )


def merge(lines: Sequence[Line]) -> Changes:
    """Bring lines into the ledger, with rollups and quota periods, in the caller's transaction.

    What the database refuses is found by halving, and told in ``refused``. Raises ``MissingPartition``.
    """
    return _merge(lines, _closed_until(lines))


def enter(*lines: Line) -> None:
    """Write corrections that come by no journal, in the caller's transaction, which holds the shard's position."""
    prepare()
    _merge_new(lines, None)


def _closed_until(lines: Sequence[Line]) -> dt.datetime | None:
    """Where months are closed up to. Asked in the transaction of the merge, which closing waits for, and only where
    it matters: the month that runs cannot be closed."""
    oldest = moment_of(uuid.UUID(int=min([line.id.int for line in lines])))
    this_month = clock.month_start(clock.month_of(clock.now()))
    return ClosedMonth.objects.end() if oldest < this_month else None


def _merge(lines: Sequence[Line], closed_until: dt.datetime | None) -> Changes:
    is_closed = closed_until is not None and any(line.moment < closed_until for line in lines)
    fault: DatabaseError
    for way in (_merge_any,) if is_closed else (_merge_new, _merge_any):
        try:
            with transaction.atomic():
                return way(lines, closed_until)
        except DatabaseError as error:
            if not _is_fault_of_data(error):
                raise
            fault = error
    if len(lines) == 1:
        return Changes(refused=[Refused(lines[0], DeadLetter.Reason.REFUSED, _refusal(fault))])
    half = len(lines) // 2
    changes = _merge(lines[:half], closed_until)
    changes.extend(_merge(lines[half:], closed_until))
    return changes


def _is_fault_of_data(error: DatabaseError) -> bool:
    cause: Any = error.__cause__
    code = getattr(cause, "pgcode", None) or ""
    if isinstance(error, IntegrityError) and code == _CHECK_VIOLATION and cause.diag.constraint_name is None:
        raise MissingPartition("a month of the ledger has no partition") from error
    return code[:2] in _FAULTS_OF_DATA or isinstance(error, DataError)


def _refusal(error: DatabaseError) -> str:
    """The rule that refused. PostgreSQL's own sentence may quote the data, so it is not kept."""
    diag = getattr(error.__cause__, "diag", None)
    constraint = getattr(diag, "constraint_name", None) or ""
    code = getattr(error.__cause__, "pgcode", "")
    return f"{type(error.__cause__).__name__} {code} {constraint}".strip()[:255]


def _merge_new(lines: Sequence[Line], _closed_until: dt.datetime | None) -> Changes:
    """The usual case, in which the ledger knows none of the lines. Fails as a whole where it does."""
    _copy("usage_records", lines)
    return _account(Changes([*lines]), Deltas())


def _merge_any(lines: Sequence[Line], closed_until: dt.datetime | None) -> Changes:
    """All lines, whatever the ledger knows of them, and of whatever month."""
    deltas = Deltas()
    firsts: dict[uuid.UUID, Line] = {}
    others = [
        line
        for line in lines
        if _is_before(line, closed_until) or firsts.setdefault(line.id, line) is not line
    ]
    known = _insert(firsts.values())
    changes = Changes([line for line in firsts.values() if line.id not in known])
    others = [line for line in firsts.values() if line.id in known] + others
    _merge_known(others, changes, deltas, closed_until)
    return _account(changes, deltas)


def _is_before(line: Line | UsageRecord, end: dt.datetime | None) -> bool:
    moment = line.moment if isinstance(line, Line) else line.timestamp
    return end is not None and moment < end


def _account(changes: Changes, deltas: Deltas) -> Changes:
    """Rollups and quota periods follow what was written."""
    deltas.add(changes.changed)
    deltas.write()
    with connection.cursor() as cursor:
        # Else a foreign key would be looked at by COMMIT alone, too late to tell which line broke it.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return changes


def _copy(table: str, lines: Iterable[Line]) -> None:
    binary_copy.copy(table, COLUMNS, [line.copied() for line in lines])


def _insert(lines: Iterable[Line]) -> set[uuid.UUID]:
    """Insert lines with distinct ids; returns the ids that the ledger had already."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM staged_lines")
        _copy("staged_lines", lines)
        cursor.execute(_INSERT)
        return {row[0] for row in cursor.fetchall()}


def _merge_known(
    lines: Sequence[Line], changes: Changes, deltas: Deltas, closed_until: dt.datetime | None
) -> None:
    """Lines whose request the ledger has or may not take any more, one by one, in the order they came."""
    records = _locked(lines) if lines else {}
    # Asked after the ledger: a month is remembered before its rows are taken away.
    remembered = archived.known(line.id for line in lines if _is_before(line, closed_until))
    for line in lines:
        record, kept = records.get(line.id), remembered.get(line.id)
        if kept is not None and (kept.is_settled or record is None):
            _merge_archived(line, kept, changes)
            continue
        if record is None:
            _correct(line, changes)
            continue
        if not line.is_settled:
            continue
        if record.status != _UNSETTLED:
            if not _is_same(record, line):
                changes.refused.append(_conflict(line))
        elif _identity(record) != _identity(line.entry):
            changes.refused.append(_conflict(line))
        elif _is_before(record, closed_until) or _corrections(record.id).exists():
            _correct(line, changes)
        else:
            deltas.remove(record)
            records[line.id] = _settle(line)
            changes.changed.append(line)


def _merge_archived(line: Line, kept: archived.Remembered, changes: Changes) -> None:
    if not line.is_settled:
        return
    if not kept.agrees(line):
        changes.refused.append(_conflict(line))
    elif not kept.is_settled:
        _correct(line, changes)


def _locked(lines: Sequence[Line]) -> dict[uuid.UUID, UsageRecord]:
    moments = [line.moment for line in lines]
    records = UsageRecord.objects.select_for_update().filter(
        id__in={line.id for line in lines}, timestamp__range=(min(moments), max(moments))
    )
    return {record.id: record for record in records.order_by("id")}


def _identity(of: UsageRecord | Entry) -> tuple[uuid.UUID, ...]:
    return of.consumer_id, of.service_id, of.api_key_id


def _is_same(record: UsageRecord, line: Line) -> bool:
    entry = line.entry
    recorded = [record.usage.get(name, 0) for name in TOKEN_COUNTS]
    arrived = [getattr(entry, name) for name in TOKEN_COUNTS]
    return (
        _identity(record) == _identity(entry)
        and recorded == arrived
        and (record.price_version_id, record.currency, record.cost_amount)
        == (entry.price_version_id, entry.currency, line.cost)
    )


def _conflict(line: Line) -> Refused:
    return Refused(line, DeadLetter.Reason.CONFLICT, "the ledger has other amounts for this request")


def _corrections(id_: uuid.UUID) -> Any:
    return UsageRecord.objects.filter(corrects=id_, kind=UsageRecord.Kind.CORRECTION)


def _correct(line: Line, changes: Changes) -> None:
    """Add a correction, unless this settle has one. A void is a correction that is itself ``unsettled``."""
    earlier = list(_corrections(line.id).order_by("id"))
    settles = [row for row in earlier if row.status != _UNSETTLED and row.settlement != _BY_HAND]
    if not settles and (line.is_settled or not earlier):
        correction = line.correction()
        _insert([correction])
        changes.changed.append(correction)
    elif line.is_settled and not _is_same(settles[0], line):
        changes.refused.append(_conflict(line))


def _settle(line: Line) -> UsageRecord:
    """The unsettled row takes the amounts of the settle that came after all."""
    entry = line.entry
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE usage_records SET
                price_version_id = %s, tier = %s, duration_ms = %s, usage = %s::jsonb, cost = %s::jsonb,
                total_tokens = %s, cost_amount = %s, currency = %s, status = %s, error = %s::jsonb,
                settlement = %s, metadata = %s::jsonb
            WHERE id = %s AND "timestamp" = %s
            """,
            (
                entry.price_version_id, entry.tier, entry.duration_ms, line.usage_json(), line.cost_json(),
                entry.total_tokens, line.cost, entry.currency, entry.status, line.error_json(),
                line.settlement, line.metadata, line.id, line.moment,
            ),
        )  # fmt: skip
    return UsageRecord.objects.get(id=line.id, timestamp=line.moment)
