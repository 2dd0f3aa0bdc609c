"""Export jobs: ordered, run by whichever worker gets there first, cancelled, expired.

A job is run under an advisory lock of the worker's database session, so a killed worker's job is free at once; the
next one begins the file anew, out of one fresh snapshot, since half a file of an older moment would not fit to it.
"""

import datetime as dt
import logging
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F

from accounts.models import Consumer
from audit import trail
from common import clock, crash
from finance import copying, formats, manifests
from finance.errors import RangeRefused
from finance.models import KEPT, MOST_ATTEMPTS, ExportJob
from finance.snapshot import snapshot
from metering import archived

log = logging.getLogger(__name__)

_LOCK = 0x6578706F
#: Progress is told so often, seconds; a cancelled job ends at the next time.
_TELL_EVERY = 0.5
_UNFINISHED = (ExportJob.State.QUEUED, ExportJob.State.RUNNING)
_WITHOUT_FILES = (ExportJob.State.FAILED, ExportJob.State.CANCELLED, ExportJob.State.EXPIRED)


class Unwanted(Exception):
    """The job was cancelled, or somebody else ended it."""


@transaction.atomic
def order(
    *,
    format: str,
    start: dt.datetime,
    end: dt.datetime,
    actor: str,
    consumer: Consumer | None = None,
    address: str | None = None,
) -> ExportJob:
    """Queue an export of ``[start, end)``. What lies after now is left out. Raises ``RangeRefused``, and
    ``UsageArchived`` where rows of it are in the archive."""
    end = min(end, clock.now())
    if start >= end:
        raise RangeRefused
    if format == ExportJob.Format.STATEMENTS and not are_whole_months(start, end):
        raise RangeRefused("statements are of whole UTC months that are over")
    archived.require_there(start, end)
    job = ExportJob.objects.create(format=format, start=start, end=end, consumer=consumer, ordered_by=actor)
    _tell(job, "export.ordered", actor, address)
    return job


def are_whole_months(start: dt.datetime, end: dt.datetime) -> bool:
    """Whether a range begins with a UTC month, ends with one, and is over."""
    ends = [clock.month_start(clock.month_of(moment)) == moment for moment in (start, end)]
    return all(ends) and end <= clock.now()


@transaction.atomic
def cancel(job: ExportJob, *, actor: str, address: str | None = None) -> bool:
    """End a job that is not done yet. Whoever works on it stops and takes its files away."""
    if not job.moves(ExportJob.State.CANCELLED, of=_UNFINISHED, finished_at=clock.now()):
        return False
    _tell(job, "export.cancelled", actor, address)
    return True


def run(job_id: Any) -> None:
    """Work on a job to its end, unless somebody does or did. An outage leaves it for the next try."""
    with _held(job_id) as is_ours:
        job = ExportJob.objects.unfinished().filter(id=job_id).first() if is_ours else None
        if job is None:
            return
        if job.attempts >= MOST_ATTEMPTS:
            fields = {"error": f"given up after {MOST_ATTEMPTS} tries", "finished_at": clock.now()}
            job.moves(ExportJob.State.FAILED, of=_UNFINISHED, **fields)
            shutil.rmtree(job.folder, ignore_errors=True)
            return
        if job.moves(ExportJob.State.RUNNING, of=_UNFINISHED, attempts=F("attempts") + 1, rows_done=0):
            _run(job)


def _run(job: ExportJob) -> None:
    try:
        made = _write(job)
    except Unwanted:
        shutil.rmtree(job.folder, ignore_errors=True)
        return
    except archived.UsageArchived as gone:
        fields = {"error": gone.detail[:255], "finished_at": clock.now()}
        job.moves(ExportJob.State.FAILED, of=_UNFINISHED, **fields)
        shutil.rmtree(job.folder, ignore_errors=True)
        return
    crash.point("export-written")
    now = clock.now()
    fields = {"manifest": made, "finished_at": now, "expires_at": now + KEPT, "rows_done": made["rows"]}
    if not job.moves(ExportJob.State.DONE, of=(ExportJob.State.RUNNING,), **fields):
        shutil.rmtree(job.folder, ignore_errors=True)


def _write(job: ExportJob) -> dict[str, Any]:
    """Make the files of a job; returns the manifest. Raises ``Unwanted``."""
    how = formats.load(job.format)
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True, mode=0o700)
    copied, file = job.folder / "copied.csv", job.folder / f"usage.{how.SUFFIX}"
    with snapshot(job) as ledger:
        facts = ledger.facts()
        tell = _progress(job, facts.rows)
        if how.BY_ROW and facts.rows >= copying.WORTHWHILE:
            copying.copy_rows(ledger, job, how.select(), copied, tell)
        else:
            copying.copy_whole(ledger, how.select(), copied, tell)
    crash.point("export-copied")
    how.write(job, copied, file, tell)
    copied.unlink(missing_ok=True)
    made = manifests.manifest(job, file, facts)
    manifests.save(made, job.folder)
    return made


def _progress(job: ExportJob, rows: int) -> formats.Progress:
    ExportJob.objects.filter(id=job.id).update(rows_total=rows)
    running = ExportJob.objects.filter(id=job.id, state=ExportJob.State.RUNNING)
    told_at = 0.0

    def tell(done: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at < _TELL_EVERY:
            return
        told_at = time.monotonic()
        if not running.update(rows_done=done):
            raise Unwanted

    return tell


@contextmanager
def _held(job_id: Any) -> Iterator[bool]:
    """Whether this database session may work on the job."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", [_LOCK, str(job_id)])
        is_ours = bool(cursor.fetchone()[0])
    try:
        yield is_ours
    finally:
        if is_ours and connection.connection is not None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [_LOCK, str(job_id)])


def expire() -> int:
    """Take files away that had their time, and what killed workers left behind; returns how many jobs expired."""
    expired = sum(
        job.moves(ExportJob.State.EXPIRED, of=(ExportJob.State.DONE,)) for job in ExportJob.objects.stale()
    )
    _remove_leftovers()
    return expired


def _remove_leftovers() -> None:
    """Folders of jobs that ended without a file, unless a worker is still about to notice that."""
    folders = {folder.name for folder in Path(settings.EXPORT_DIR).glob("*") if _is_id(folder.name)}
    for job in ExportJob.objects.filter(id__in=folders, state__in=_WITHOUT_FILES):
        with _held(job.id) as is_ours:
            if is_ours:
                shutil.rmtree(job.folder, ignore_errors=True)


def _is_id(name: str) -> bool:
    try:
        uuid.UUID(name)
    except ValueError:
        return False
    return True


def file_of(job: ExportJob) -> Path | None:
    """The file of a job that is done, where it is still there."""
    if job.state != ExportJob.State.DONE or job.manifest is None:
        return None
    path = job.folder / job.manifest["file"]
    return path if path.exists() else None


def _tell(job: ExportJob, action: str, actor: str, address: str | None) -> None:
    trail.record(
        actor=actor,
        action=action,
        target_type="export_jobs",
        target_id=job.id,
        after={"format": job.format, "start": job.start.isoformat(), "end": job.end.isoformat()},
        address=address,
    )
