"""Clients that mind whether the application itself tells the audit trail of whatever a request changed."""

from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet

from audit.models import AuditEntry


def told_by_the_application() -> QuerySet[AuditEntry]:
    """Without what the database tells of rows that tests make and commit."""
    return AuditEntry.objects.exclude(actor__startswith="database: ")


def left_to_the_database() -> list[tuple[Any, ...]]:
    """What the database told of, and would tell of were it the commit now: nobody else did."""
    with transaction.atomic():
        connection.check_constraints()
        entries = AuditEntry.objects.filter(actor__startswith="database: ")
        found = list(entries.order_by("id").values_list("action", "target_id", "before", "after"))
        transaction.set_rollback(True)
    return found


class Telling:
    """Goes before a test client. Fails where a request left something to the database.

    ``minds`` is off where thousands of requests are made that other tests make one by one.
    """

    minds = True

    def request(self, **request: Any) -> Any:
        if not self.minds or request["REQUEST_METHOD"] in {"GET", "HEAD", "OPTIONS"}:
            return super().request(**request)  # type: ignore[misc] # of the client
        before = left_to_the_database()
        response = super().request(**request)  # type: ignore[misc]
        fresh = [entry for entry in left_to_the_database() if entry not in before]
        assert not fresh, fresh
        return response
