"""What a person enters into the ledger: a void, or amounts against a call that was settled. Always a further row.

Nobody waits for a journal here, but the row is written as a drain writes: under the lock of its shard's position, so
that no drain decides about the same request meanwhile, and told in the outbox.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext

import msgspec
from django.db import transaction

from audit import trail
from common.errors import Problem
from common.ids import moment_of, uuid7
from common.money import ZERO, plain
from metering import archived, journal, ledger, positions, shards
from metering.journal import TOKEN_COUNTS
from metering.lines import Line, owners_of
from metering.models import UsageRecord

_UNSETTLED = UsageRecord.Status.UNSETTLED


class CorrectionRefused(Problem):
    code, status, title = "correction_refused", 409, "The ledger does not take this correction"


@dataclass(frozen=True, slots=True)
class Amounts:
    """What is added to what the ledger has for a call; negative takes away."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0
    cost: Decimal = ZERO


@transaction.atomic
def void(record: UsageRecord, *, note: str, actor: str, address: str | None = None) -> UsageRecord:
    """Decide that a call that nobody settled stays free. A settle that comes after all becomes a correction.

    Raises ``CorrectionRefused`` where it was settled or voided meanwhile.
    """
    line = _line(record, Amounts(), _UNSETTLED, note)
    rows = _rows_of(line)
    if [(row.kind, row.status) for row in rows] != [(UsageRecord.Kind.USAGE, _UNSETTLED)]:
        raise CorrectionRefused("The call is not unsettled any more.")
    return _enter(line, "usage_voided", note, actor, address)


@transaction.atomic
def correct(
    record: UsageRecord,
    amounts: Amounts,
    *,
    note: str,
    actor: str,
    seen: int | None = None,
    address: str | None = None,
) -> UsageRecord:
    """Add amounts to a call that was settled. Its rows together never come to less than nothing.

    ``seen``: how many rows the call had (``rows_of``) when somebody decided this, so that whoever says it twice, or at
    the same time as another, adds it once. Raises ``CorrectionRefused``.
    """
    if amounts == Amounts():
        raise CorrectionRefused("Nothing would change.")
    line = _line(record, amounts, record.status, note)
    rows = _rows_of(line)
    if record.status == _UNSETTLED:
        raise CorrectionRefused("The call is unsettled: void it, or wait for its settle.")
    if seen is not None and len(rows) != seen:
        raise CorrectionRefused(
            "The call has got another row meanwhile. Look at it, and open this page anew."
        )
    if min(_together(rows, amounts)) < 0:
        raise CorrectionRefused("The call would come to less than nothing.")
    return _enter(line, "usage_corrected", note, actor, address)


def rows_of(request_id: uuid.UUID) -> list[UsageRecord]:
    """All that the ledger has of a call, its first row before its corrections."""
    first = UsageRecord.objects.filter(id=request_id, timestamp=moment_of(request_id))
    corrections = UsageRecord.objects.filter(corrects=request_id, kind=UsageRecord.Kind.CORRECTION)
    return [*first, *corrections.order_by("id")]


def _line(record: UsageRecord, amounts: Amounts, status: str, note: str) -> Line:
    entry = journal.Entry(
        request_id=record.request_id,
        consumer_id=record.consumer_id,
        service_id=record.service_id,
        api_key_id=record.api_key_id,
        price_version_id=record.price_version_id,
        tier=record.tier_id,
        currency=record.currency,
        status=status,  # type: ignore[arg-type] # one of the ledger's
        cost=plain(amounts.cost),
        **{name: getattr(amounts, name) for name in TOKEN_COUNTS},
    )
    return Line(
        shard=shards.shard_of(record.consumer_id),
        stream_id=b"",
        raw=b"",
        settlement=UsageRecord.Settlement.MANUAL,
        entry=entry,
        id=uuid7(),
        cost=amounts.cost,
        metadata=msgspec.json.encode({"note": note}).decode(),
        owners=owners_of(record, record.tier_id),
        kind=UsageRecord.Kind.CORRECTION,
    )


def _rows_of(line: Line) -> list[UsageRecord]:
    """``rows_of``, while no drain can add to them."""
    positions.append(line.shard, [line.id])
    request_id = line.entry.request_id
    rows = rows_of(request_id)
    away = archived.months_away_of(moment_of(request_id), line.moment)
    if away:
        raise CorrectionRefused(archived.sentence(away))
    return rows


def _together(rows: Iterable[UsageRecord], amounts: Amounts) -> list[Decimal]:
    with localcontext() as context:
        context.prec = 60
        sums = [Decimal(getattr(amounts, name)) for name in (*TOKEN_COUNTS, "cost")]
        for row in rows:
            ours = [*(row.usage.get(name, 0) for name in TOKEN_COUNTS), row.cost_amount]
            sums = [had + more for had, more in zip(sums, ours, strict=True)]
        return sums


def _enter(line: Line, action: str, note: str, actor: str, address: str | None) -> UsageRecord:
    ledger.enter(line)
    entry = line.entry
    trail.record(
        actor=actor,
        action=action,
        target_type="usage_records",
        target_id=entry.request_id,
        after={
            "correction": str(line.id),
            "note": note,
            "cost": f"{entry.cost} {entry.currency}",
            **{name: getattr(entry, name) for name in TOKEN_COUNTS},
        },
        address=address,
    )
    return UsageRecord.objects.get(id=line.id, timestamp=line.moment)
