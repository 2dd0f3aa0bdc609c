"""All rows of all tables, to tell what changed."""

from typing import Any

from django.apps import apps

Rows = dict[str, dict[Any, dict[str, Any]]]


def every_row() -> Rows:
    """By table and primary key."""
    return {
        model._meta.db_table: {row[model._meta.pk.attname]: row for row in model._base_manager.values()}
        for model in apps.get_models()
        if not model._meta.proxy and model._meta.managed
    }


def changes(before: Rows, after: Rows) -> set[tuple[str, Any, str]]:
    """Table, primary key and column of whatever differs; the column of a row that came or went is ``*``."""
    found: set[tuple[str, Any, str]] = set()
    for table, rows in after.items():
        was = before[table]
        found.update((table, pk, "*") for pk in rows.keys() ^ was.keys())
        for pk in rows.keys() & was.keys():
            found.update((table, pk, name) for name in rows[pk] if rows[pk][name] != was[pk][name])
    return found
