"""What callers sent along as ``metadata`` may be about people, and goes when one of them asks for it.

Nothing else of a row depends on it: no sum, no statement, no fingerprint of an archived month. So it may go from rows
of closed months too, where the database lets nothing else through (``refuse_change_of_closed_month``).
"""

import datetime as dt
import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from django.db import connection, transaction

from audit import trail
from common import clock
from metering import archived
from metering.models import DeadLetter

# What a person wrote beside a correction is no caller's.
_WHERE = """
    WHERE consumer_id = %s AND "timestamp" >= %s AND "timestamp" < %s AND metadata @> %s AND settlement <> 'manual'
"""
_COUNT = f"SELECT count(*) FROM usage_records {_WHERE}"  # noqa: S608 - constants  # nosec B608
_ERASE = f"UPDATE usage_records SET metadata = NULL {_WHERE}"  # noqa: S608 - constants  # nosec B608
_LETTERS = "SELECT * FROM dead_letters WHERE position(%s IN entry) > 0 ORDER BY id"


@dataclass(frozen=True, slots=True)
class Erasure:
    """Metadata of one consumer's rows of the UTC days ``[first, last]``, where it has all of ``members``."""

    consumer_id: uuid.UUID
    first: dt.date
    last: dt.date
    members: Mapping[str, Any] = field(default_factory=dict)

    def count(self) -> int:
        """Rows of the ledger and dead letters that have such metadata."""
        rows = 0
        for day in self._days():
            with connection.cursor() as cursor:
                cursor.execute(_COUNT, self._parameters(day))
                rows += cursor.fetchone()[0]
        return rows + sum(1 for _ in self._letters())

    def erase(self, *, actor: str) -> int:
        """Take it out, a day in a transaction; returns of how many. It may be broken off and begun again."""
        erased = sum(self._of_day(day, actor) for day in self._days())
        return erased + self._of_letters(actor)

    def archived_months(self) -> list[dt.date]:
        """Months of these days whose rows are in files, where this does not reach."""
        end = clock.day_start(self.last + dt.timedelta(days=1))
        return archived.months_away_of(clock.day_start(self.first), end)

    def _of_day(self, day: dt.date, actor: str) -> int:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_ERASE, self._parameters(day))
            found: int = cursor.rowcount
            self._record(actor, found, day=f"{day:%Y-%m-%d}")
        return found

    def _of_letters(self, actor: str) -> int:
        with transaction.atomic():
            letters = list(self._letters())
            for letter, entry in letters:
                del entry["metadata"]
                letter.entry = msgspec.json.encode(entry)
                letter.save(update_fields=["entry"])
            self._record(actor, len(letters), dead_letters=True)
        return len(letters)

    def _letters(self) -> Iterator[tuple[DeadLetter, dict[str, msgspec.Raw]]]:
        """Dead letters keep their entries, what was journalled again too. One that cannot be read names no consumer."""
        consumer = json.dumps(str(self.consumer_id)).encode()
        for letter in DeadLetter.objects.raw(_LETTERS, [consumer]):
            try:
                entry = msgspec.json.decode(bytes(letter.entry), type=dict[str, msgspec.Raw])
            except ValueError:
                continue
            if bytes(entry.get("consumer_id", b"")) == consumer and self._fits(entry.get("metadata")):
                yield letter, entry

    def _fits(self, raw: msgspec.Raw | None) -> bool:
        metadata = None if raw is None else json.loads(bytes(raw))
        return isinstance(metadata, dict) and self.members.items() <= metadata.items()

    def _record(self, actor: str, found: int, **where: Any) -> None:
        """Which members were asked for, and not their values: these are what is to be forgotten."""
        if found:
            trail.record(
                actor=actor,
                action="metadata.erased",
                target_type="consumer",
                target_id=self.consumer_id,
                after={**where, "erased": found, "members": sorted(self.members)},
            )

    def _parameters(self, day: dt.date) -> tuple[Any, ...]:
        start = clock.day_start(day)
        end = start + dt.timedelta(days=1)
        return self.consumer_id, start, end, json.dumps(dict(self.members))

    def _days(self) -> Iterator[dt.date]:
        for number in range((self.last - self.first).days + 1):
            yield self.first + dt.timedelta(days=number)
