"""Journal entries that could not become rows of the ledger: kept for a person, and sent again when that helps."""

import logging
from collections.abc import Iterable

from django.db.models import QuerySet

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


def retry(letters: QuerySet[DeadLetter]) -> int:
    """Journal unresolved letters again, as they were settled; returns how many.

    Where the cause is still there, a new letter follows. Harmless when a letter goes twice: the ledger takes each
    request once, and counters are not touched.
    """
    client = valkey.connect()
    sent = 0
    for letter in letters.filter(resolved_at=None).order_by("created_at", "id"):
        client.xadd(
            shards.journal_key(letter.shard), {"e": bytes(letter.entry), "s": letter.settlement.encode()}
        )
        DeadLetter.objects.filter(pk=letter.pk).update(resolved_at=clock.now())
        sent += 1
    client.close()
    return sent
