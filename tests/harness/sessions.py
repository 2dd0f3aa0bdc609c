"""What PostgreSQL still holds for the sessions of processes that were killed."""

from django.db import connection

from tests.harness.waiting import wait_for


def wait_until_free(lock: int) -> None:
    """Returns when no session holds an advisory lock of this kind: a dead client is noticed a moment later."""

    def is_free() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                """
                SELECT NOT EXISTS (
                    SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = %s
                    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                )
                """,
                [lock],
            )
            return bool(cursor.fetchone()[0])

    wait_for(is_free)
