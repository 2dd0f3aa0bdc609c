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
        with superuser_cursor() as cursor:
            cursor.execute(TAKE_GUARDS_OFF_MONTHS)
            cursor.execute(EMPTY, _emptied([*tables, *TABLES]))
        return []  # where there is nothing to do, Django does not make permissions again

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


#: What Django makes after migrations, the same each time; making it anew takes longer than most tests.
KEPT = frozenset({"auth_permission", "django_content_type"})


def empty(tables: Iterable[str]) -> None:
    """Past the triggers that refuse it, and only where there are rows: TRUNCATE makes new files for each table."""
    with superuser_cursor() as cursor:
        cursor.execute(EMPTY, _emptied(tables))


def _emptied(tables: Iterable[str]) -> dict[str, list[str]]:
    return {"tables": sorted({*tables} - KEPT)}


#: Triggers that always fire do so for a replica too, so they are taken off the tables that have rows, and put back.
EMPTY = """
    BEGIN;
    SET LOCAL session_replication_role = replica;
    CREATE TEMPORARY TABLE of_tests ON COMMIT DROP AS SELECT unnest(%(tables)s)::regclass AS emptied;
    DO $$
    DECLARE
        emptied regclass;
        found boolean;
        always record;
    BEGIN
        FOR emptied IN SELECT * FROM of_tests LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %%s)', emptied) INTO found;
            CONTINUE WHEN NOT found;
            FOR always IN SELECT tgname FROM pg_trigger WHERE tgrelid = emptied AND tgenabled = 'A' LOOP
                EXECUTE format('ALTER TABLE %%s DISABLE TRIGGER %%I', emptied, always.tgname);
            END LOOP;
            EXECUTE format('DELETE FROM %%s', emptied);
            FOR always IN SELECT tgname FROM pg_trigger
                WHERE tgrelid = emptied AND tgenabled = 'D' AND NOT tgisinternal
            LOOP
                EXECUTE format('ALTER TABLE %%s ENABLE ALWAYS TRIGGER %%I', emptied, always.tgname);
            END LOOP;
        END LOOP;
    END $$;
    COMMIT
"""


#: So that a month that a test closed is open to the next one; the product cannot do that.
TAKE_GUARDS_OFF_MONTHS = """
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


@pytest.fixture
def committed(audit_trail_may_be_emptied: None, transactional_db: None) -> None:
    """Commits are real; all tables are emptied afterwards, rows made by migrations too."""
