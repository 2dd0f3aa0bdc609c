"""The chain of audit entries, computed again apart from the database that wrote it.

Each link's hash is SHA-256 over the link before it and the entry's fields, each with its length in bytes before it
(``append_audit_link`` in the migration writes the same). Whoever may switch the triggers off can change rows, but not
without a hash that no longer fits; and whoever writes the whole chain anew is found by its anchors (``audit.anchors``).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from django.db import connection, transaction

from audit.models import AuditLink
from common.errors import Problem

GENESIS = bytes(32)
#: Rows that are fetched at once: the trail may be longer than memory.
FETCHED = 5_000
#: Position; the two hashes; then what is hashed after them, as text.
_ROWS = """
    SELECT link.sequence, link.previous_hash, link.hash, link.entry_id, link.sequence::text, entry.id::text,
           (extract(epoch FROM entry.at) * 1000000)::bigint::text, entry.actor, entry.action, entry.target_type,
           entry.target_id, entry.address::text, entry.before::text, entry.after::text
    FROM audit_links link FULL JOIN audit_entries entry ON entry.id = link.entry_id
    ORDER BY link.sequence, entry.id
"""


class ChainBroken(Problem):
    """``detail`` names the first row that is not as it was written."""

    code, title = "audit_chain_broken", "The audit trail was tampered with"


@dataclass(frozen=True, slots=True)
class Head:
    """The last link. ``sequence`` 0: there is none yet. ``hash`` in hexadecimal digits."""

    sequence: int
    hash: str


def head() -> Head:
    last = AuditLink.objects.order_by("-sequence").values_list("sequence", "hash").first()
    return Head(0, GENESIS.hex()) if last is None else Head(last[0], bytes(last[1]).hex())


def verify(anchors: Mapping[int, str]) -> Head:
    """Walk the whole chain and return its head. ``anchors``: the hash of some links, as known from elsewhere.

    Raises ``ChainBroken`` at the first row that was changed, removed, moved, or put in without its link.
    """
    sequence, previous = 0, GENESIS
    waiting = dict(anchors)
    for position, said_previous, said_hash, entry_id, *content in _rows():
        if position is None:
            raise ChainBroken(f"entry {content[1]} has no link: it was put in past the chain")
        sequence += 1
        if position != sequence:
            raise ChainBroken(f"link {sequence} is missing: the next one is {position}")
        if content[1] is None:
            raise ChainBroken(f"entry {entry_id} of link {sequence} is missing")
        if bytes(said_previous) != previous:
            raise ChainBroken(f"link {sequence} (entry {entry_id}) does not follow the one before it")
        previous = _hash(previous, content)
        if bytes(said_hash) != previous:
            raise ChainBroken(
                f"entry {entry_id} of link {sequence} is not what was written: its hash differs"
            )
        if waiting.pop(sequence, previous.hex()) != previous.hex():
            raise ChainBroken(f"link {sequence} (entry {entry_id}) is not the one that was anchored")
    if waiting:
        raise ChainBroken(f"the chain ends at link {sequence}, but link {max(waiting)} was anchored")
    return Head(sequence, previous.hex())


def _hash(previous: bytes, content: Iterable[str | None]) -> bytes:
    hashed = hashlib.sha256(_field(previous.hex()))
    hashed.update(b"".join(map(_field, content)))
    return hashed.digest()


def _field(value: str | None) -> bytes:
    if value is None:
        return b"-,"
    text = value.encode()
    return b"%d:%b," % (len(text), text)


def _rows() -> Iterator[tuple[int | None, bytes, bytes, int, *tuple[str | None, ...]]]:
    """All rows as of one moment, by a cursor of the server."""
    with transaction.atomic(), connection.chunked_cursor() as cursor:
        cursor.execute(_ROWS)
        while rows := cursor.fetchmany(FETCHED):
            yield from rows
