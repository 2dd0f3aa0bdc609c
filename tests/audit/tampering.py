"""What somebody could do to the trail who has the server's superuser, and so may switch triggers off."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from audit import trail
from audit.ownership import TABLES
from tests.superuser import as_superuser


def write(*actors: str) -> list[int]:
    """One committed entry for each; returns their ids."""
    return [
        trail.record(
            actor=actor,
            action="tier_changed",
            target_type="tier",
            target_id="basic",
            before={"rank": 1},
            after={"rank": 2, "name": "ü"},
            address="192.0.2.7",
        ).pk
        for actor in actors
    ]


#: Over the entries as they are now: every hash fits.
CHAIN_ANEW = """
    DELETE FROM audit_links;
    SELECT append_audit_link(entry) FROM audit_entries entry ORDER BY id
"""


@contextmanager
def tampered(statements: str) -> Iterator[None]:
    """The trail as it would be after ``statements``; they are taken back at the end."""
    with as_superuser(), transaction.atomic(), connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        cursor.execute(statements)
        yield
        transaction.set_rollback(True)
