"""Databases that are migrated already: copies of one that was, since migrating takes longer than most tests."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
from django.db import connection
from psycopg2 import sql


@contextmanager
def kept_as_migrated() -> Iterator[None]:
    """Meanwhile there is a copy of the test database as it is now."""
    connection.close()
    copy, name = _migrated(), connection.settings_dict["NAME"]
    _run("CREATE DATABASE {} TEMPLATE {}", copy, name)
    yield
    _run("DROP DATABASE {}", copy)


def make_migrated(name: str) -> str:
    """The URL of one more copy, which takes the place of what has its name."""
    drop(name)
    _run("CREATE DATABASE {} TEMPLATE {}", name, _migrated())
    return os.environ["DATABASE_URL"].partition("?")[0].rpartition("/")[0] + f"/{name}"


def drop(name: str) -> None:
    _run("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def _migrated() -> str:
    return f"{connection.settings_dict['NAME']}_migrated"


def _run(statement: str, *names: str) -> None:
    """On a connection to none of them."""
    server = psycopg2.connect(os.environ["DATABASE_URL"])
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
    server.close()
