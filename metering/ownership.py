"""Which shards this drain owns: one advisory lock of PostgreSQL a shard, shared out evenly among the drains.

Every drain also holds a lock that only says it is there. Whoever owns more than its share gives up the rest, and
whoever owns less takes what is free; so drains come and go without being told of each other, and the locks of one
that dies are free at once. Locks belong to the database session: a broken connection has none.
"""

import random

from django.db import connection

from metering.shards import SHARDS

#: The first of the two numbers of an advisory lock; the second is a shard, or the drain's server process.
SHARD_LOCK = 0x6A6F7572
_DRAIN_LOCK = 0x64726169


class Ownership:
    """The locks that the current database session holds."""

    def __init__(self) -> None:
        self.shards: set[int] = set()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s, pg_backend_pid())", [_DRAIN_LOCK])

    def rebalance(self) -> None:
        """Take or give up shards, so that this drain owns its share of them."""
        drains, free = _survey()
        wanted = -(-SHARDS // max(drains, 1)) - len(self.shards)
        if wanted < 0:
            self._give_up(sorted(self.shards)[wanted:])
        elif wanted and free:
            # At random, so that drains that start together do not all want the same ones.
            self._take(random.sample(free, min(len(free), wanted)))  # no secret  # nosec B311

    def _give_up(self, shards: list[int]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_unlock(%s, shard) FROM unnest(%s) AS shard", [SHARD_LOCK, shards]
            )
        self.shards -= set(shards)

    def _take(self, shards: list[int]) -> None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT shard, pg_try_advisory_lock(%s, shard) FROM unnest(%s) AS shard",
                [SHARD_LOCK, shards],
            )
            self.shards |= {shard for shard, is_ours in cursor.fetchall() if is_ours}


def _survey() -> tuple[int, list[int]]:
    """How many drains there are, and which shards nobody owns."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT classid::bigint, objid::bigint FROM pg_locks
            WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid::bigint IN (%s, %s)
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            """,
            [SHARD_LOCK, _DRAIN_LOCK],
        )
        locks = cursor.fetchall()
    drains = sum(1 for kind, _ in locks if kind == _DRAIN_LOCK)
    owned = {number for kind, number in locks if kind == SHARD_LOCK}
    return drains, [shard for shard in range(SHARDS) if shard not in owned]
