"""Journal entries that could not become rows of the ledger: kept for a person, and sent again when that helps."""

import datetime as dt
import logging
from collections.abc import Iterable

import msgspec
import redis
from django.db import transaction
from django.db.models import QuerySet

from audit import trail
from common import clock
from common.ids import is_uuid7, moment_of
from metering import journal, shards, valkey
from metering.models import DeadLetter

log = logging.getLogger(__name__)


def file(letters: Iterable[DeadLetter]) -> None:
    """Keep letters, in the transaction that passes over them. Filing the same entry again changes nothing."""
    filed = DeadLetter.objects.bulk_create(letters, ignore_conflicts=True)
    for letter in filed:
        log.error(
            "dead letter: shard %d entry %s is %s: %s",
            letter.shard, letter.stream_id, letter.reason, letter.detail,
        )  # fmt: skip


def retry(letters: QuerySet[DeadLetter], *, actor: str) -> int:
    """Journal unresolved letters again, as they were settled; returns how many.

    Where the cause is still there, a new letter follows. Harmless when a letter goes twice: the ledger takes each
    request once, and counters are not touched.
    """
    client = valkey.connect()
    try:
        waiting = list(letters.filter(resolved_at=None).order_by("created_at", "id"))
        for letter in waiting:
            _send(client, letter, actor)
        return len(waiting)
    finally:
        client.close()


@transaction.atomic
def set_aside(letters: QuerySet[DeadLetter], *, note: str, actor: str, address: str | None = None) -> int:
    """Decide that unresolved letters stay out of the ledger; returns how many."""
    waiting = list(letters.filter(resolved_at=None).select_for_update().order_by("id"))
    for letter in waiting:
        trail.record(
            actor=actor,
            action="dead_letter.set_aside",
            target_type="dead_letters",
            target_id=letter.pk,
            after={"note": note},
            address=address,
        )
    DeadLetter.objects.filter(pk__in=[letter.pk for letter in waiting]).update(resolved_at=clock.now())
    return len(waiting)


def waiting_of(start: dt.datetime, end: dt.datetime) -> int:
    """Unresolved letters of calls of ``[start, end)``; and those that do not say of when, if they came since."""
    letters = DeadLetter.objects.filter(resolved_at=None, created_at__gte=start)
    return sum(_may_lie_in(letter, start, end) for letter in letters.iterator())


def _may_lie_in(letter: DeadLetter, start: dt.datetime, end: dt.datetime) -> bool:
    try:
        request_id = journal.decode(bytes(letter.entry)).request_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True
    return not is_uuid7(request_id) or start <= moment_of(request_id) < end


def _send(client: redis.Redis, letter: DeadLetter, actor: str) -> None:
    journal = shards.journal_key(letter.shard)
    client.xadd(journal, {"e": bytes(letter.entry), "s": letter.settlement.encode()})
    with transaction.atomic():
        DeadLetter.objects.filter(pk=letter.pk).update(resolved_at=clock.now())
        trail.record(
            actor=actor, action="dead_letter.retried", target_type="dead_letters", target_id=letter.pk
        )
