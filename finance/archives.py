"""Closed months leave the ledger for a file, and come back.

A month is written, read back and compared, and recorded; then its partition is detached, and only when asked for again
dropped. Whatever is killed in between, the same call goes on from what is there: the file, the record, the table. What
closed months are asked for otherwise (rollups, quota periods, what ``metering.archived`` remembers) stays.
"""

import datetime as dt
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from common import clock, crash
from finance import archive_files, books, manifests
from finance.errors import ArchiveRefused
from finance.letters import write_to_finance
from finance.models import ArchiveStep
from finance.snapshot import one_moment
from metering import archived, guards, partitions
from metering.models import ClosedMonth

log = logging.getLogger(__name__)

_LOCK = 0x61726368
_Step = ArchiveStep.Step


def archive(month: dt.date, *, by: str) -> ArchiveStep:
    """Take a closed month's rows out of the ledger into a file; returns the last step. Raises ``ArchiveRefused``.

    Not in a transaction: the partition is detached while drains go on.
    """
    with _alone():
        written = _written(month) or _write(month, by)
        crash.point("archive-recorded")
        partitions.detach(month)
        crash.point("archive-detached")
        last = _last(month) or written
        if last.step in (_Step.WRITTEN, _Step.RESTORED):
            last = _record(_Step.DETACHED, month, last.manifest, by)
        return last


def drop(month: dt.date, *, by: str) -> ArchiveStep:
    """Remove the table of a month that is archived and detached. Raises ``ArchiveRefused``."""
    with _alone(), transaction.atomic():
        last = _last(month)
        if last is None or last.step != _Step.DETACHED or partitions.is_attached(month):
            raise ArchiveRefused("the month is not archived, or in the ledger again")
        _require_file(last)
        if not _is_of_its_table(last):
            raise ArchiveRefused("its rows are not those of the file any more: archive it again")
        partitions.drop(month)
        return _record(_Step.DROPPED, month, last.manifest, by)


def restore(month: dt.date, *, by: str) -> ArchiveStep:
    """Bring a month back into the ledger, as closed as it was. Raises ``ArchiveRefused``."""
    with _alone(), transaction.atomic():
        last = _last(month)
        if last is None or last.step not in (_Step.DETACHED, _Step.DROPPED):
            raise ArchiveRefused("the month is not archived, or in the ledger again")
        if not partitions.exists(month):
            _require_file(last)
            archive_files.load(file_of(last), partitions.create(month))
        table = partitions.name_of(month)
        found = archive_files.facts(connection, table, last.manifest["columns"])
        _require_same(found, last.manifest)
        guards.guard_partition(table)
        partitions.attach(month)
        return _record(_Step.RESTORED, month, last.manifest, by)


def archive_due(*, by: str) -> None:
    """Archive what is older than ``ARCHIVE_AFTER_MONTHS``, and drop what was detached longer ago than
    ``ARCHIVE_DROP_AFTER_DAYS``; neither where the setting is empty. What somebody restored is left to them, and what
    is refused told to finance."""
    refusals = []
    for closed in ClosedMonth.objects.filter(records__gt=0).order_by("month"):
        last = _last(closed.month)
        try:
            if _is_old(closed.month) and (last is None or last.step == _Step.WRITTEN):
                archive(closed.month, by=by)
            elif last is not None and last.step == _Step.DETACHED and _is_to_be_dropped(last):
                drop(closed.month, by=by)
        except ArchiveRefused as refused:
            refusals.append(f"{closed}: {refused.detail}")
            log.error("the archive refuses %s", refusals[-1])
    if refusals:
        write_to_finance("The archive refuses months", refusals)


def file_of(step: ArchiveStep) -> Path:
    return Path(settings.ARCHIVE_DIR) / str(step.manifest["file"])


def latest() -> dict[dt.date, ArchiveStep]:
    """Where every month is that was ever archived."""
    return {step.month: step for step in ArchiveStep.objects.order_by("id")}


def _is_old(month: dt.date) -> bool:
    if settings.ARCHIVE_AFTER_MONTHS is None:
        return False
    this = clock.month_of(clock.now())
    return (this.year - month.year) * 12 + this.month - month.month > settings.ARCHIVE_AFTER_MONTHS


def _is_to_be_dropped(detached: ArchiveStep) -> bool:
    days = settings.ARCHIVE_DROP_AFTER_DAYS
    return days is not None and detached.at <= clock.now() - dt.timedelta(days=days)


def _last(month: dt.date) -> ArchiveStep | None:
    return ArchiveStep.objects.filter(month=month).order_by("-id").first()


def _written(month: dt.date) -> ArchiveStep | None:
    """What was recorded of the month's file, where that is still what was written, and what the table has."""
    last = _last(month)
    if last is not None and last.step == _Step.DROPPED:
        _require_file(last)
    return last if last is not None and _is_intact(last) and _is_of_its_table(last) else None


def _is_of_its_table(step: ArchiveStep) -> bool:
    """Rows that were restored, or not taken out yet, may have lost their metadata since: the file must not keep it."""
    if not partitions.exists(step.month):
        return True
    found = archive_files.facts(connection, partitions.name_of(step.month), step.manifest["columns"])
    return not _differing(found, step.manifest)


def _write(month: dt.date, by: str) -> ArchiveStep:
    closed = _require_closed(month)
    table = partitions.name_of(month)
    folder = Path(settings.ARCHIVE_DIR)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    target = folder / f"{table}.parquet"
    with one_moment() as moment:
        if partitions.is_attached(month) and books.compare(moment, [month])[1]:
            raise ArchiveRefused("its books differ: see the reconciliation")
        found = archive_files.facts(moment, table)
        if (found["rows"], found["totals"]) != (closed.records, closed.totals):
            raise ArchiveRefused("its rows are not those that it was closed with")
        archive_files.write(moment, table, target)
    crash.point("archive-written")
    _require_same(_read_back(target), found)
    manifest = _manifest(month, target, found)
    _save(manifest, target.with_name(f"{target.name}.{manifests.NAME}"))
    crash.point("archive-compared")
    with transaction.atomic():
        archived.remember(month, table)
        return _record(_Step.WRITTEN, month, manifest, by)


def _require_closed(month: dt.date) -> ClosedMonth:
    closed = ClosedMonth.objects.filter(month=month).first()
    if closed is None:
        raise ArchiveRefused("the month is not closed")
    if not closed.records:
        raise ArchiveRefused("the month has no rows")
    if not partitions.exists(month):
        raise ArchiveRefused("the month's rows are neither in the ledger nor in the file that was recorded")
    return closed


@transaction.atomic
def _read_back(file: Path) -> dict[str, Any]:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE read_back (LIKE usage_records) ON COMMIT DROP")
    archive_files.load(file, "read_back")
    return archive_files.facts(connection, "read_back")


def _manifest(month: dt.date, file: Path, found: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": file.name,
        "month": f"{month:%Y-%m}",
        "schema_version": archive_files.SCHEMA_VERSION,
        "bytes": file.stat().st_size,
        "sha256": manifests.sha256(file),
        "made_at": clock.now().isoformat(),
        **found,
    }


def _save(manifest: dict[str, Any], target: Path) -> None:
    with target.open("w") as file:
        file.write(json.dumps(manifest, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    archive_files.flush_folder(target.parent)


def _is_intact(step: ArchiveStep) -> bool:
    try:
        return manifests.sha256(file_of(step)) == step.sha256
    except OSError:
        return False


def _require_file(step: ArchiveStep) -> None:
    if not _is_intact(step):
        raise ArchiveRefused(f"{step.file} is gone, or not what was written")


def _require_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    if differing := _differing(found, expected):
        raise ArchiveRefused(f"what was read again differs in {', '.join(differing)}")


def _differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Kinds of token that came after the file was written are none of it."""
    known = {**found, "tokens": {kind: found["tokens"].get(kind) for kind in expected["tokens"]}}
    return [name for name, value in known.items() if expected[name] != value]


def _record(step: str, month: dt.date, manifest: dict[str, Any], by: str) -> ArchiveStep:
    told = {name: manifest[name] for name in ("file", "sha256", "rows", "totals", "schema_version")}
    return ArchiveStep.objects.create(month=month, step=step, by=by, manifest=manifest, **told)


@contextmanager
def _alone() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, 0)", [_LOCK])
        if not cursor.fetchone()[0]:
            raise ArchiveRefused("somebody else is at work on the archive")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, 0)", [_LOCK])
