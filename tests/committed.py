"""A database that a test may really commit to, from several threads or processes at once."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.backends.postgresql.operations import DatabaseOperations

from audit.ownership import TABLES
from tests.superuser import superuser_cursor


@pytest.fixture(scope="session")
def audit_trail_may_be_emptied() -> Iterator[None]:
    """The audit trail refuses to be emptied, and so would refuse what ends every test that commits."""
    original = DatabaseOperations.sql_flush

    def sql_flush(self: DatabaseOperations, style: Any, tables: Any, **options: Any) -> list[str]:
        empty_audit_trail()
        return original(self, style, [table for table in tables if table not in TABLES], **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


def empty_audit_trail() -> None:
    with superuser_cursor() as cursor:
        cursor.execute(
            "BEGIN;"
            + "".join(
                f"ALTER TABLE {table} DISABLE TRIGGER append_only; TRUNCATE {table};" for table in TABLES
            )
            + "".join(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER append_only;" for table in TABLES)
            + "COMMIT"
        )


@pytest.fixture
def committed(audit_trail_may_be_emptied: None, transactional_db: None) -> None:
    """Commits are real; all tables are emptied afterwards, rows made by migrations too."""
