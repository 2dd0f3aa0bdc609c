"""The test database as its superuser sees it, who may do what the application's role may not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
from django.db import connection
from psycopg2.extensions import cursor as Cursor  # noqa: N812

from devstack.postgres import SUPERUSER
from tests.harness.servers import RUN


def credentials() -> dict[str, str]:
    """The superuser's name and password; on a server that is not ours, the application's, which owns all there."""
    if RUN.postgres is None:
        kept = connection.settings_dict
        return {"user": kept["USER"], "password": kept["PASSWORD"]}
    return {"user": SUPERUSER, "password": RUN.postgres.superuser_password}


@contextmanager
def superuser_cursor() -> Iterator[Cursor]:
    """On a connection of its own, each statement committed by itself."""
    kept = connection.settings_dict
    signed_in: Any = credentials()
    other = psycopg2.connect(dbname=kept["NAME"], host=kept["HOST"], port=kept["PORT"], **signed_in)
    other.autocommit = True
    try:
        with other.cursor() as cursor:
            yield cursor
    finally:
        other.close()


@contextmanager
def as_superuser() -> Iterator[None]:
    """Django's own connection is the superuser's meanwhile."""
    kept = connection.settings_dict
    mine = {"USER": kept["USER"], "PASSWORD": kept["PASSWORD"]}
    connection.close()
    kept.update({name.upper(): value for name, value in credentials().items()})
    try:
        yield
    finally:
        connection.close()
        kept.update(mine)
