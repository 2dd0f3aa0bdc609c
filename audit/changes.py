"""What the audit trail says of a row: its fields as JSON, and never a secret."""

import datetime as dt
from typing import Any

from django.db import models

#: Fields that are secrets, or as good as one.
SECRETS = frozenset({"password", "key_hash", "credential"})


def fields_of(row: models.Model) -> dict[str, Any]:
    """The row's own columns by field name. Related rows are told by their key."""
    return {
        field.name: as_json(field.value_from_object(row))
        for field in row._meta.concrete_fields
        if field.name not in SECRETS
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only what changed, as it was and as it is."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return (
        {name: before[name] for name in changed if name in before},
        {name: after[name] for name in changed if name in after},
    )


def as_json(value: Any) -> Any:
    """The value where JSON knows it, else its text."""
    if value is None or isinstance(value, str | int | float | bool | dict | list):
        return value
    return value.isoformat() if isinstance(value, dt.date) else str(value)
