"""A database that a test may really commit to, from several threads or processes at once."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from django.db.backends.postgresql.operations import DatabaseOperations

from audit.ownership import TABLES
from tests.superuser import superuser_cursor


@pytest.fixture(scope="session")
def audit_trail_may_be_emptied() -> Iterator[None]:
    """The audit trail, what it tells of and closed months refuse to be emptied, with which tests that commit end."""

    def sql_flush(self: DatabaseOperations, style: Any, tables: Any, **options: Any) -> list[str]:
        take_guards_off_months()
        empty([*tables, *TABLES])
        return ["SELECT"]  # where there is nothing to do, Django does not make permissions again

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


def empty(tables: Iterable[str]) -> None:
    """Past the triggers that refuse it."""
    with superuser_cursor() as cursor:
        cursor.execute(
            "SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgtype & 32 <> 0"
        )  # on TRUNCATE
        refusing = cursor.fetchall()
        cursor.execute(
            "BEGIN;"
            + "".join(f"ALTER TABLE {table} DISABLE TRIGGER {trigger};" for table, trigger in refusing)
            + f"TRUNCATE {', '.join(sorted(set(tables)))};"
            + "".join(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger};" for table, trigger in refusing)
            + "COMMIT"
        )


def take_guards_off_months() -> None:
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
            END $$
            """
        )


@pytest.fixture
def committed(audit_trail_may_be_emptied: None, transactional_db: None) -> None:
    """Commits are real; all tables are emptied afterwards, rows made by migrations too."""
