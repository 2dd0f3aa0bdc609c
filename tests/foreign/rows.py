"""All rows of all tables, to tell what changed."""

import json
from functools import cache
from typing import Any

from django.apps import apps
from django.db import connection

Rows = dict[str, dict[str, dict[str, Any]]]


def every_row() -> Rows:
    """By table, primary key and column, all as JSON has them. In one query: thousands of calls are looked at."""
    with connection.cursor() as cursor:
        cursor.execute(_select())
        return {table: json.loads(rows, parse_float=str) for table, rows in cursor.fetchall()}


@cache
def _select() -> str:
    quoted = connection.ops.quote_name
    parts = []
    for model in apps.get_models():
        if model._meta.managed and not model._meta.proxy:
            table, pk = model._meta.db_table, quoted(model._meta.pk.attname)
            fields = model._meta.concrete_fields
            columns = ", ".join(f"{quoted(field.column)} AS {quoted(field.attname)}" for field in fields)
            rows = f"(SELECT {columns} FROM {quoted(table)}) one"  # noqa: S608 - all names are the models' own
            found = f"coalesce(json_object_agg({pk}, one), '{{}}')::text"
            parts.append(f"SELECT '{table}', {found} FROM {rows}")  # noqa: S608
    return " UNION ALL ".join(parts)


def changes(before: Rows, after: Rows) -> set[tuple[str, str, str]]:
    """Table, primary key and column of whatever differs; the column of a row that came or went is ``*``."""
    found: set[tuple[str, str, str]] = set()
    for table, rows in after.items():
        was = before[table]
        found.update((table, pk, "*") for pk in rows.keys() ^ was.keys())
        for pk in rows.keys() & was.keys():
            found.update((table, pk, name) for name in rows[pk] if rows[pk][name] != was[pk][name])
    return found
