"""System checks of what guards the audit trail (``manage.py check --database default``, and before every migrate)."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import connection

#: Of the trail's own tables, and of those whose changes the database tells of. The former have four triggers together.
_STATE = """
    WITH guarded AS (
        SELECT oid, relowner, relnamespace, oid IN (to_regclass('audit_entries'), to_regclass('audit_links')) AS trail
        FROM pg_class
        WHERE oid IN (to_regclass('audit_entries'), to_regclass('audit_links'))
              OR oid IN (SELECT tgrelid FROM pg_trigger WHERE tgfoid = to_regproc('audit_change'))
    )
    SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
           bool_or(pg_has_role(relowner, 'MEMBER') OR pg_has_role(namespace.nspowner, 'MEMBER')),
           bool_or(has_table_privilege(guarded.oid, 'TRUNCATE') OR has_table_privilege(guarded.oid, 'TRIGGER')
                   OR trail AND (has_table_privilege(guarded.oid, 'UPDATE')
                                 OR has_table_privilege(guarded.oid, 'DELETE'))),
           4 + 3 * count(*) FILTER (WHERE NOT trail) > (
               SELECT count(*) FROM pg_trigger JOIN guarded ON guarded.oid = tgrelid
               WHERE tgenabled = 'A' AND tgname IN (
                   'append_only', 'linked', 'of_transaction', 'audited', 'audited_update', 'audited_truncate'))
    FROM guarded JOIN pg_namespace namespace ON namespace.oid = relnamespace
"""
_HAND_OVER = "Run manage.py guard_audit --application-role ROLE once, with a superuser's DATABASE_URL."


@register(Tags.database)
def audit_is_guarded(
    *, app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **options: Any
) -> list[CheckMessage]:
    """Nothing where there is no trail yet."""
    if not databases or "default" not in databases:
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('audit_links') IS NULL")
        if cursor.fetchone()[0]:
            return []
        cursor.execute(_STATE)
        return _found(*cursor.fetchone())


def _found(superuser: bool, owns: bool, may_change: bool, missing: bool) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if superuser:
        found.append(
            Warning(
                "The application's role is a superuser, whom nothing refuses",
                hint="Connect as a role of its own.",
                id="audit.W001",
            )
        )
    if owns:
        found.append(Warning("The application's role owns the audit trail", hint=_HAND_OVER, id="audit.W002"))
    elif may_change:
        found.append(
            Warning(
                "The application's role may change the trail, or empty what it tells of",
                hint=_HAND_OVER,
                id="audit.W003",
            )
        )
    if missing:
        found.append(Warning("A trigger of the audit trail is missing or switched off", id="audit.W004"))
    return found
