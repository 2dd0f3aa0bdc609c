"""The last export against the ledger: the file is the one that was written, and its sums are what was there then.

Rows that drains wrote after the export's position are left out: the outbox names them, so it keeps what ``needs`` says.
"""

import datetime as dt
import json
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

from common.ids import first_of
from common.money import ZERO, plain
from finance import exports, manifests
from finance.models import Difference, ExportJob
from metering import archived

_SUMS = """
    WITH place_then AS (
        SELECT shard::int AS shard, split_part(place, ':', 3)::bigint AS batch
        FROM jsonb_each_text(%(positions)s::jsonb) AS t (shard, place)
    ), later AS (
        SELECT unnest(b.record_ids) AS id FROM journal_batches b LEFT JOIN place_then USING (shard)
        WHERE b.number > coalesce(place_then.batch, 0)
    )
    SELECT r.service_id, r.consumer_id, r.currency, sum(r.total_tokens), sum(r.cost_amount) FROM usage_records r
    WHERE r."timestamp" >= %(start)s AND r."timestamp" < %(end)s
        AND (%(consumer)s::uuid IS NULL OR r.consumer_id = %(consumer)s::uuid)
        AND NOT EXISTS (SELECT FROM later WHERE later.id = r.id)
    GROUP BY 1, 2, 3
"""

_Sums = dict[tuple[str, str, str], tuple[int, Decimal]]


@dataclass(frozen=True, slots=True)
class Need:
    """Batches of the outbox that changed rows of ids before ``before``, after the batches of ``positions``, which are
    as in a manifest: none where an export is still being made."""

    before: uuid.UUID
    positions: dict[str, str]


def needs() -> list[Need]:
    """What a comparison will ask the outbox for, now or once an export is done."""
    jobs = [*ExportJob.objects.unfinished(), *filter(None, [_last()])]
    return [
        # Ends are to the microsecond, ids to the millisecond.
        Need(first_of(job.end + dt.timedelta(milliseconds=1)), (job.manifest or {}).get("positions", {}))
        for job in jobs
    ]


def compare(moment: BaseDatabaseWrapper) -> list[Difference]:
    """What is wrong with the last export that is still kept, not saved."""
    job = _last()
    if job is None or job.manifest is None:
        return []
    if archived.months_away_of(job.start, job.end, moment):
        return _file(job)  # closed since, and compared a last time when it was archived
    return _file(job) + _sums(moment, job, job.manifest)


def _last() -> ExportJob | None:
    done = ExportJob.objects.filter(state=ExportJob.State.DONE)
    return done.order_by("-finished_at", "-id").first()


def _file(job: ExportJob) -> list[Difference]:
    file, expected = exports.file_of(job), (job.manifest or {})["sha256"]
    try:
        found = "no file" if file is None else manifests.sha256(file)
    except OSError as error:
        found = f"no file: {error.strerror}"
    if found == expected:
        return []
    cause = f"the file {job.id} is not the one that was written"
    return [_difference(job, cause=cause, ledger={"sha256": expected}, other={"sha256": found})]


def _sums(moment: BaseDatabaseWrapper, job: ExportJob, manifest: dict[str, Any]) -> list[Difference]:
    ledger, exported = _ledger(moment, job, manifest), _exported(manifest)
    nothing = (0, ZERO)
    return [
        _difference(
            job,
            cause=f"the ledger differs from what was exported at its position ({pair[2]})",
            service_id=pair[0],
            consumer_id=pair[1],
            ledger=_told(ledger.get(pair, nothing)),
            other=_told(exported.get(pair, nothing)),
        )
        for pair in sorted(ledger.keys() | exported.keys())
        if ledger.get(pair, nothing) != exported.get(pair, nothing)
    ]


def _ledger(moment: BaseDatabaseWrapper, job: ExportJob, manifest: dict[str, Any]) -> _Sums:
    positions = json.dumps(manifest["positions"])
    values: dict[str, Any] = {
        "positions": positions,
        "start": job.start,
        "end": job.end,
        "consumer": job.consumer_id,
    }
    with moment.cursor() as cursor:
        cursor.execute(_SUMS, values)
        return {
            (str(service), str(consumer), currency): (int(tokens), cost)
            for service, consumer, currency, tokens, cost in cursor.fetchall()
        }


def _exported(manifest: dict[str, Any]) -> _Sums:
    return {
        (row["service_id"], row["consumer_id"], row["currency"]): (row["tokens"], Decimal(row["cost"]))
        for row in manifest["sums"]
    }


def _told(sums: tuple[int, Decimal]) -> dict[str, Any]:
    return {"tokens": sums[0], "cost": plain(sums[1])}


def _difference(job: ExportJob, **fields: Any) -> Difference:
    return Difference(source=Difference.Source.EXPORT, export=job, **fields)
