"""Attempts to sign in, one at a time for a name and an address.

django-axes counts failures after the password was checked: many attempts at once would all be checked before the first
of them counts. So a second one that comes meanwhile is turned away.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

from accounts.errors import SignInLocked


@contextmanager
def one_attempt(*, username: str, address: str | None) -> Iterator[None]:
    """Raises ``SignInLocked`` where another attempt for the same name from the same address is being checked."""
    who = f"sign-in {username} {address}"
    if not _asked("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", who):
        raise SignInLocked(retry_after=1)
    try:
        yield
    finally:
        _asked("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", who)


def _asked(statement: str, who: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(statement, [who])
        return bool(cursor.fetchone()[0])
