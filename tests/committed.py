"""A database that a test may really commit to, from several threads or processes at once."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db.backends.postgresql.operations import DatabaseOperations

_SPARE = "ALTER TABLE audit_entries {} TRIGGER append_only"


@pytest.fixture(scope="session")
def audit_trail_may_be_emptied() -> Iterator[None]:
    """The audit trail refuses to be emptied, and so would refuse what ends every test that commits."""
    original = DatabaseOperations.sql_flush

    def sql_flush(self: DatabaseOperations, *args: Any, **options: Any) -> list[str]:
        return [_SPARE.format("DISABLE"), *original(self, *args, **options), _SPARE.format("ENABLE")]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DatabaseOperations, "sql_flush", sql_flush)
        yield


@pytest.fixture
def committed(audit_trail_may_be_emptied: None, transactional_db: None) -> None:
    """Commits are real; all tables are emptied afterwards, rows made by migrations too."""
