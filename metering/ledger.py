"""The merge of journal entries into the ledger: each request once, whatever arrives twice, late or out of order.

| ledger has                        | arrives                          | done                                   |
|-----------------------------------|----------------------------------|----------------------------------------|
| nothing                           | any                              | insert                                 |
| unsettled, month open             | settled                          | update once, rollups by the difference |
| unsettled, voided or month closed | settled                          | correction                             |
| settled                           | unsettled, or the same again     | nothing                                |
| settled                           | other amounts                    | refused as ``conflict``                |
"""

import io
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, IntegrityError, connection, transaction

from common import clock
from metering import rollups
from metering.journal import TOKEN_COUNTS, Entry
from metering.lines import COLUMNS, Line
from metering.models import ClosedMonth, DeadLetter, UsageRecord
from metering.rollups import Deltas

_COLUMNS = ", ".join(COLUMNS)
_COPY = f"COPY {{table}} ({_COLUMNS}) FROM STDIN"
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
    fault: DatabaseError
    for way in (_merge_new, _merge_any):
        try:
            with transaction.atomic():
                return way(lines)
        except DatabaseError as error:
            if not _is_fault_of_data(error):
                raise
            fault = error
    if len(lines) == 1:
        return Changes(refused=[Refused(lines[0], DeadLetter.Reason.REFUSED, _refusal(fault))])
    half = len(lines) // 2
    changes = merge(lines[:half])
    changes.extend(merge(lines[half:]))
    return changes


def _is_fault_of_data(error: DatabaseError) -> bool:
    cause: Any = error.__cause__
    code = getattr(cause, "pgcode", None) or ""
    if isinstance(error, IntegrityError) and code == _CHECK_VIOLATION and cause.diag.constraint_name is None:
        raise MissingPartition("a month of the ledger has no partition") from error
    return code[:2] in _FAULTS_OF_DATA


def _refusal(error: DatabaseError) -> str:
    """The rule that refused. PostgreSQL's own sentence may quote the data, so it is not kept."""
    diag = getattr(error.__cause__, "diag", None)
    constraint = getattr(diag, "constraint_name", None) or ""
    code = getattr(error.__cause__, "pgcode", "")
    return f"{type(error.__cause__).__name__} {code} {constraint}".strip()[:255]


def _merge_new(lines: Sequence[Line]) -> Changes:
    """The usual case, in which the ledger knows none of the lines. Fails as a whole where it does."""
    _copy("usage_records", lines)
    return _account(Changes([*lines]), Deltas())


def _merge_any(lines: Sequence[Line]) -> Changes:
    """All lines, whatever the ledger knows of them."""
    deltas = Deltas()
    firsts: dict[uuid.UUID, Line] = {}
    again = [line for line in lines if firsts.setdefault(line.id, line) is not line]
    known = _insert(firsts.values())
    changes = Changes([line for line in firsts.values() if line.id not in known])
    _merge_known([line for line in firsts.values() if line.id in known] + again, changes, deltas)
    return _account(changes, deltas)


def _account(changes: Changes, deltas: Deltas) -> Changes:
    """Rollups and quota periods follow what was written."""
    deltas.add(changes.changed)
    deltas.write()
    with connection.cursor() as cursor:
        # Else a foreign key would be looked at by COMMIT alone, too late to tell which line broke it.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    return changes


def _copy(table: str, lines: Iterable[Line]) -> None:
    text = "".join([line.copy_text() for line in lines])
    with connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.copy_expert(_COPY.format(table=table), io.StringIO(text))


def _insert(lines: Iterable[Line]) -> set[uuid.UUID]:
    """Insert lines with distinct ids; returns the ids that the ledger had already."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM staged_lines")
        _copy("staged_lines", lines)
        cursor.execute(_INSERT)
        return {row[0] for row in cursor.fetchall()}


def _merge_known(lines: Sequence[Line], changes: Changes, deltas: Deltas) -> None:
    """Lines whose request the ledger has, one by one, in the order they came."""
    records = _locked(lines) if lines else {}
    for line in lines:
        record = records[line.id]
        if not line.is_settled:
            continue
        if record.status != UsageRecord.Status.UNSETTLED:
            if not _is_same(record, line):
                changes.refused.append(_conflict(line))
        elif _identity(record) != _identity(line.entry):
            changes.refused.append(_conflict(line))
        elif _is_final(record):
            _correct(line, changes)
        else:
            deltas.remove(record)
            records[line.id] = _settle(line)
            changes.changed.append(line)


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
    recorded = [record.usage.get(name) for name in TOKEN_COUNTS]
    arrived = [getattr(entry, name) for name in TOKEN_COUNTS]
    return (
        _identity(record) == _identity(entry)
        and recorded == arrived
        and (record.price_version_id, record.currency, record.cost_amount)
        == (entry.price_version_id, entry.currency, line.cost)
    )


def _conflict(line: Line) -> Refused:
    return Refused(line, DeadLetter.Reason.CONFLICT, "the ledger has other amounts for this request")


def _is_final(record: UsageRecord) -> bool:
    """Whether an unsettled row may not be changed any more: somebody decided on it, or its month is closed."""
    month = clock.month_of(record.timestamp)
    return _corrections(record.id).exists() or ClosedMonth.objects.filter(month=month).exists()


def _corrections(id_: uuid.UUID) -> Any:
    return UsageRecord.objects.filter(corrects=id_, kind=UsageRecord.Kind.CORRECTION)


def _correct(line: Line, changes: Changes) -> None:
    """Add a correction, unless this settle has one. A void is a correction that is itself ``unsettled``."""
    earlier = _corrections(line.id).exclude(status=UsageRecord.Status.UNSETTLED).first()
    if earlier is None:
        correction = line.correction()
        _insert([correction])
        changes.changed.append(correction)
    elif not _is_same(earlier, line):
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
