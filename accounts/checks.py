"""System checks of signing in (``manage.py check --deploy --database default``)."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from accounts.authenticators import Authenticator

#: How many people a message names at most.
NAMED = 10


# With --deploy alone: before every migrate it would keep a repair from being deployed.
@register(Tags.database, deploy=True)
def authenticators_open(
    *, app_configs: Sequence[AppConfig] | None, databases: Sequence[str] | None = None, **options: Any
) -> list[CheckMessage]:
    """Whoever's authenticator no key opens cannot sign in. Nothing where there is no table yet."""
    if not databases or "default" not in databases:
        return []
    if Authenticator._meta.db_table not in connection.introspection.table_names():
        return []
    try:
        shut = [str(each.user_id) for each in Authenticator.objects.order_by("user_id") if not each.opens]
    except ImproperlyConfigured as error:
        return [Error(f"No authenticator can be opened: {error}", id="accounts.E001")]
    if not shut:
        return []
    named = ", ".join(shut[:NAMED]) + (", …" if len(shut) > NAMED else "")
    return [
        Error(
            f"{len(shut)} authenticators cannot be opened with CREDENTIAL_KEYS: those of users {named}",
            hint="Put the key that they were sealed under back on the ring, or reset these second factors.",
            id="accounts.E001",
        )
    ]
