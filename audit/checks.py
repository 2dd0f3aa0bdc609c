"""System checks of what guards the audit trail (``manage.py check --database default``, and before every migrate)."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Tags, Warning, register
from django.db import connection

_ROLE = """
    SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
           bool_or(pg_has_role(class.relowner, 'MEMBER') OR pg_has_role(namespace.nspowner, 'MEMBER')),
           bool_or(has_table_privilege(class.oid, 'UPDATE') OR has_table_privilege(class.oid, 'DELETE')
                   OR has_table_privilege(class.oid, 'TRUNCATE') OR has_table_privilege(class.oid, 'TRIGGER'))
    FROM pg_class class JOIN pg_namespace namespace ON namespace.oid = class.relnamespace
    WHERE class.oid IN (to_regclass('audit_entries'), to_regclass('audit_links'))
"""
_TRIGGERS = """
    SELECT count(*) FROM pg_trigger
    WHERE tgrelid IN (to_regclass('audit_entries'), to_regclass('audit_links'))
          AND tgname IN ('append_only', 'linked') AND tgenabled = 'A'
"""
TRIGGERS = 3
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
        cursor.execute(_ROLE)
        superuser, owns, may_change = cursor.fetchone()
        cursor.execute(_TRIGGERS)
        return list(_found(superuser, owns, may_change, cursor.fetchone()[0]))


def _found(superuser: bool, owns: bool, may_change: bool, triggers: int) -> list[CheckMessage]:
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
            Warning("The application's role may change audit entries", hint=_HAND_OVER, id="audit.W003")
        )
    if triggers != TRIGGERS:
        found.append(Warning("A trigger of the audit trail is missing or switched off", id="audit.W004"))
    return found
