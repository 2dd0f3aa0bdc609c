"""The ledger as it was at one moment: what drains write meanwhile is not seen, so parts of a file fit together."""

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import IO, Any

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper

from common.money import ZERO, plain
from finance.models import ExportJob
from metering import archived


@dataclass(frozen=True, slots=True)
class Facts:
    """What the ledger says of a range at one position of the journals; JSON-ready.

    ``totals``: per currency, exact. ``sums``: the same by service and consumer, with tokens. ``positions``: per shard
    ``epoch:stream id:batch``.
    """

    rows: int
    totals: dict[str, str]
    sums: list[dict[str, Any]]
    price_versions: list[dict[str, Any]]
    positions: dict[str, str]


class Snapshot:
    """Questions to the ledger about the range of one job, or a stretch of it."""

    def __init__(
        self,
        other: BaseDatabaseWrapper,
        job: ExportJob,
        stretch: tuple[dt.datetime, dt.datetime] | None = None,
    ) -> None:
        self._connection = other
        self.where = """r."timestamp" >= %s AND r."timestamp" < %s"""
        self.values: list[Any] = [*(stretch or (job.start, job.end))]
        if job.consumer_id is not None:
            self.where += " AND r.consumer_id = %s"
            self.values.append(job.consumer_id)

    def copy(self, select: str, file: Any, *, has_head: bool = True) -> None:
        """``COPY`` the answer to a file as CSV in UTF-8."""
        with self._connection.cursor() as cursor, self._connection.wrap_database_errors:
            # In order of the primary key, and names looked up by row: a sort of ten million rows takes a minute.
            cursor.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
            cursor.execute("SET LOCAL enable_sort = off; SET LOCAL jit = off")
            question = cursor.mogrify(select.format(where=self.where), self.values).decode()
            cursor.copy_expert(f"COPY ({question}) TO STDOUT WITH (FORMAT csv, HEADER {has_head})", file)

    def shared(self) -> str:
        """The name by which other sessions see the same moment (``following``), while this one is open."""
        [(name,)] = self.ask("SELECT pg_export_snapshot()")
        return str(name)

    def ask(self, select: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(select.format(where=self.where), self.values)
            return list(cursor.fetchall())

    def facts(self) -> Facts:
        sums = self.ask(
            """
            SELECT r.service_id, r.consumer_id, r.currency, r.price_version_id, count(*), sum(r.total_tokens),
                sum(r.cost_amount)
            FROM usage_records r WHERE {where} GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
            """
        )
        by_currency: dict[str, Decimal] = {}
        by_pair: dict[tuple[str, str, str], list[Any]] = {}
        by_version: dict[str, int] = {}
        with localcontext() as context:
            context.prec = 60  # the usual 28 digits would round
            for service, consumer, currency, version, rows, tokens, amount in sums:
                by_currency[currency] = by_currency.get(currency, ZERO) + amount
                pair = by_pair.setdefault((str(service), str(consumer), currency), [0, 0, ZERO])
                pair[0], pair[1], pair[2] = pair[0] + rows, pair[1] + int(tokens), pair[2] + amount
                by_version[str(version)] = by_version.get(str(version), 0) + rows
        return Facts(
            rows=sum(pair[0] for pair in by_pair.values()),
            totals={currency: plain(amount) for currency, amount in sorted(by_currency.items())},
            sums=[
                {"service_id": service, "consumer_id": consumer, "currency": currency, "rows": rows,
                 "tokens": tokens, "cost": plain(amount)}
                for (service, consumer, currency), (rows, tokens, amount) in by_pair.items()
            ],
            price_versions=self._price_versions(by_version),
            positions=positions(self._connection),
        )  # fmt: skip

    def _price_versions(self, rows_of: dict[str, int]) -> list[dict[str, Any]]:
        with self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, service_id, pricing::text, effective_from FROM price_versions WHERE id = ANY(%s::uuid[])"
                " ORDER BY service_id, effective_from, id",
                [list(rows_of)],
            )
            return [
                {"id": str(id_), "service_id": str(service), "pricing": json.loads(pricing, parse_float=str),
                 "effective_from": effective_from.isoformat(), "rows": rows_of[str(id_)]}
                for id_, service, pricing, effective_from in cursor.fetchall()
            ]  # fmt: skip


@contextmanager
def one_moment() -> Iterator[BaseDatabaseWrapper]:
    """A database session of its own, in one read-only transaction that sees one moment."""
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            # Before the moment is fixed: a month that goes to the archive waits for us, or is gone for us altogether.
            cursor.execute("LOCK TABLE usage_records IN ACCESS SHARE MODE")
        yield other
    finally:
        other.close()


@contextmanager
def snapshot(job: ExportJob) -> Iterator[Snapshot]:
    """The ledger for one job. Raises ``UsageArchived``."""
    with one_moment() as other:
        archived.require_there(job.start, job.end, other)
        yield Snapshot(other, job)


@contextmanager
def following(moment: str) -> Iterator[BaseDatabaseWrapper]:
    """A further session that sees the moment of one that shares it (``Snapshot.shared``)."""
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute("SET TRANSACTION SNAPSHOT %s", [moment])
        yield other
    finally:
        other.close()


def positions(other: BaseDatabaseWrapper) -> dict[str, str]:
    """How far every shard's journal is in this moment's ledger: ``epoch:stream id:batch``."""
    with other.cursor() as cursor:
        cursor.execute("SELECT shard, epoch, last_id, batch FROM journal_positions ORDER BY shard")
        return {str(shard): f"{epoch}:{last}:{batch}" for shard, epoch, last, batch in cursor.fetchall()}


class Lines:
    """A file for ``COPY … TO STDOUT``: gathers rows, writes them in large pieces, and says how many there were."""

    PIECE = 4_000

    def __init__(self, file: IO[bytes], told: Callable[[int], None], *, has_head: bool = True) -> None:
        self._file, self._told = file, told
        self._lines: list[bytes] = []
        self.rows = -1 if has_head else 0

    def write(self, line: bytes) -> None:
        self._lines.append(line)
        if len(self._lines) >= self.PIECE:
            self.flush()

    def flush(self) -> None:
        self._file.write(b"".join(self._lines))
        self.rows += len(self._lines)
        self._lines = []
        self._told(max(self.rows, 0))
