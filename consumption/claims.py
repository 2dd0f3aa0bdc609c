"""Claims of calls under an Idempotency-Key, in PostgreSQL: they hold whatever Valkey or a gateway loses.

A claim is made after admission, so that every claim has a lease. A lease ends in the ledger, settled or reaped, and
the ledger's row is the outcome of the claim.
"""

import datetime as dt
import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

from django.db import connection

from common import clock
from common.ids import moment_of
from consumption.models import KEPT, IdempotencyClaim
from metering.models import UsageRecord

#: An outcome may be in the ledger a moment before its answer is kept: until then it does not count as one.
ANSWER_KEPT_WITHIN = dt.timedelta(seconds=5)
#: What is removed has not been in force for so long: no clock and no statement under way can still take it for valid.
MARGIN = dt.timedelta(hours=1)
MOST_REMOVED_AT_ONCE = 5_000

_TAKE = """
    INSERT INTO idempotency_claims (consumer_id, key_hash, digest, request_id) VALUES (%(consumer_id)s, %(key_hash)s,
        %(digest)s, %(request_id)s)
    ON CONFLICT (consumer_id, key_hash) DO UPDATE
    SET digest = excluded.digest, request_id = excluded.request_id, created_at = excluded.created_at
    WHERE idempotency_claims.created_at <= now() - make_interval(secs => %(kept)s)
       OR idempotency_claims.request_id = excluded.request_id
    RETURNING request_id
"""
_REMOVE = """
    DELETE FROM idempotency_claims WHERE id IN (
        SELECT id FROM idempotency_claims WHERE created_at <= now() - make_interval(secs => %s)
        ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED
    )
"""


@dataclass(frozen=True, slots=True)
class Key:
    """A consumer's key as it is stored, and the request that came with it, 32 bytes each.

    ``digest`` is keyed with the text of the key, which is not stored: the table confirms nobody's guess at a prompt.
    """

    consumer_id: uuid.UUID
    key_hash: bytes
    digest: bytes

    @classmethod
    def of(cls, consumer_id: uuid.UUID, text: str, *request: bytes) -> "Key":
        """``request``: all that two calls must have in common to be the same."""
        secret = hashlib.sha256(text.encode()).digest()
        digest = hashlib.blake2b(key=secret, digest_size=32)
        for part in request:
            digest.update(b"%d:" % len(part))
            digest.update(part)
        return cls(consumer_id, hashlib.sha256(consumer_id.bytes + text.encode()).digest(), digest.digest())


@dataclass(frozen=True, slots=True)
class Found:
    """The call that a key stands for. ``outcome``: its status in the ledger; None while it is running."""

    request_id: uuid.UUID
    digest: bytes
    outcome: str | None


def find(key: Key) -> Found | None:
    """The call that was made under a key in the last 24 hours."""
    claims = IdempotencyClaim.objects.in_force().filter(consumer_id=key.consumer_id, key_hash=key.key_hash)
    claim = claims.values_list("request_id", "digest").first()
    if claim is None:
        return None
    request_id, digest = claim
    return Found(request_id, bytes(digest), _outcome(request_id))


def take(key: Key, request_id: uuid.UUID) -> Found | None:
    """Claim a key for a call; None where it is this call's now, else whose it is. Again for the same call: the same."""
    values: dict[str, Any] = {
        "consumer_id": key.consumer_id,
        "key_hash": key.key_hash,
        "digest": key.digest,
        "request_id": request_id,
        "kept": KEPT.total_seconds(),
    }
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, values)
            if cursor.fetchone() is not None:
                return None
        found = find(key)
        if found is not None:
            return found
        # It was freed in between, or came of age: once more.


def free(key: Key, request_id: uuid.UUID) -> None:
    """Give a key back whose call did nothing: the next one under it is a first one."""
    IdempotencyClaim.objects.filter(
        consumer_id=key.consumer_id, key_hash=key.key_hash, request_id=request_id
    ).delete()


def remove_expired() -> int:
    """Remove claims that stand for nothing any more; returns how many. Any number of these may run at once."""
    total = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_REMOVE, [(KEPT + MARGIN).total_seconds(), MOST_REMOVED_AT_ONCE])
            removed: int = cursor.rowcount
        total += removed
        if removed < MOST_REMOVED_AT_ONCE:
            return total


def _outcome(request_id: uuid.UUID) -> str | None:
    moment = moment_of(request_id)
    # Its moment names the one partition to look into.
    row = (
        UsageRecord.objects.filter(id=request_id, timestamp=moment)
        .values_list("status", "duration_ms")
        .first()
    )
    if row is None:
        return None
    status, duration_ms = row
    ended = moment + dt.timedelta(milliseconds=duration_ms)
    return str(status) if clock.now() - ended > ANSWER_KEPT_WITHIN else None
