"""Journal entries that could not become rows of the ledger: kept for a person, and sent again when that helps."""

import logging
from collections.abc import Iterable

import redis
from django.db import transaction
from django.db.models import QuerySet

from audit import trail
from common import clock
from metering import shards, valkey
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


def _send(client: redis.Redis, letter: DeadLetter, actor: str) -> None:
    journal = shards.journal_key(letter.shard)
    client.xadd(journal, {"e": bytes(letter.entry), "s": letter.settlement.encode()})
    with transaction.atomic():
        DeadLetter.objects.filter(pk=letter.pk).update(resolved_at=clock.now())
        trail.record(
            actor=actor, action="dead_letter.retried", target_type="dead_letters", target_id=letter.pk
        )
