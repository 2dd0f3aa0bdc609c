"""A database that a test may really commit to, from several threads or processes at once."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.backends.postgresql.operations import DatabaseOperations

from audit.ownership import TABLES
from tests.superuser import superuser_cursor


@pytest.fixture(scope="session")
def audit_trail_may_be_emptied() -> Iterator[None]:
    """The audit trail and closed months refuse to be emptied, and so would refuse what ends every test that commits."""
    original = DatabaseOperations.sql_flush

    def sql_flush(self: DatabaseOperations, style: Any, tables: Any, **options: Any) -> list[str]:
        empty_audit_trail()
        reopen_months()
        kept = (*TABLES, "closed_months")
        return original(self, style, [table for table in tables if table not in kept], **options)

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


def reopen_months() -> None:
    """So that a month that a test closed is open to the next one; the product cannot do that."""
    with superuser_cursor() as cursor:
        cursor.execute(
            """
            DO $$
            DECLARE
                guard record;
            BEGIN
                FOR guard IN SELECT tgname, tgrelid::regclass AS guarded FROM pg_trigger
                    WHERE tgname LIKE 'closed_month%' AND NOT tgisinternal
                LOOP
                    EXECUTE format('DROP TRIGGER %I ON %s', guard.tgname, guard.guarded);
                END LOOP;
                ALTER TABLE closed_months DISABLE TRIGGER never_emptied;
                TRUNCATE closed_months;
                ALTER TABLE closed_months ENABLE ALWAYS TRIGGER never_emptied;
            END $$
            """
        )


@pytest.fixture
def committed(audit_trail_may_be_emptied: None, transactional_db: None) -> None:
    """Commits are real; all tables are emptied afterwards, rows made by migrations too."""
