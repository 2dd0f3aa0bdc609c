"""When keys were used last: noted in memory, written in one statement a minute."""

import uuid

from django.db import connection

#: How often a process writes, and how old a key's time must be to be written again.
SECONDS = 60

# Rows that another gateway is just writing are left to it: nobody waits, and there is no order to agree on.
_WRITE = """
    UPDATE api_keys SET last_used_at = now()
    WHERE id IN (
        SELECT id FROM api_keys
        WHERE id = ANY(%s::uuid[]) AND (last_used_at IS NULL OR last_used_at < now() - make_interval(secs => %s))
        FOR UPDATE SKIP LOCKED
    )
"""

#: Keys accepted by this process since it wrote last. A set's own methods are safe between threads.
_noted: set[uuid.UUID] = set()
note = _noted.add


def write() -> int:
    """Write what was noted; returns how many keys. What cannot be written stays noted."""
    used = list(_noted)
    if not used:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_WRITE, [[str(id_) for id_ in used], SECONDS - 1])
        written: int = cursor.rowcount
    _noted.difference_update(used)
    return written
