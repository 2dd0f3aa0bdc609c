"""What the servers of a test run hold when it ends, looked through for the secrets of the run itself (I11)."""

import re
from collections.abc import Iterable
from pathlib import Path

import psycopg2
import redis

from devstack.postgres import Postgres
from keys.format import NewKey
from tests.harness.planted import Planted, files_in, over_the_wire, plant_settings, tables
from tests.harness.servers import TestRun

#: The secret part of a key: 43 characters in base 62, tried where such characters begin. That makes it quick enough
#: for an append-only file of fifty megabytes.
_SECRET = 43
_RUN = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Za-z]{%d,}" % _SECRET)


class KeptByRun:
    """The secrets of a run: what its processes run on, and every key that its tests made."""

    def __init__(self, run: TestRun) -> None:
        self._run = run
        self._minted: set[bytes] = set()

    def remember(self, text: str, public_id: str, secret: str) -> NewKey:
        """Makes a new key, as the class does."""
        self._minted.add(secret.encode())
        return NewKey(text, public_id, secret)

    def leaks_in_database(self, name: str) -> list[str]:
        """In its rows, and in those that were deleted or rolled back and are still in its files."""
        postgres = self._run.postgres
        if postgres is None:
            return []
        with psycopg2.connect(postgres.superuser_url.rpartition("/")[0] + f"/{name}") as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                kept = tables(cursor)
                cursor.execute("CHECKPOINT")
                cursor.execute(
                    "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relkind IN ('r', 't', 'm') AND oid >= 16384"
                )
                kept |= files_in(postgres.data / path for (path,) in cursor.fetchall())
        connection.close()
        return self._leaks(kept)

    def leaks_elsewhere(self) -> list[str]:
        """In databases that are left, in Valkey, and in every log, append-only file, spool and export."""
        kept = files_in(_told_or_kept(self._run.folder))
        found = []
        if self._run.valkey is not None:
            client = redis.Redis.from_url(self._run.valkey.url)
            kept |= {"valkey": over_the_wire(client)}
        if self._run.postgres is not None:
            for name in _databases(self._run.postgres):
                found += self.leaks_in_database(name)
        return found + self._leaks(kept)

    def _leaks(self, kept: dict[str, bytes]) -> list[str]:
        planted, run = Planted(), self._run
        plant_settings(planted, *(server.url for server in (run.postgres, run.valkey) if server is not None))
        keys = (f"an API key in {place}" for place, data in kept.items() if self._has_minted(data))
        return [*planted.found(kept), *keys]

    def _has_minted(self, data: bytes) -> bool:
        return any(
            run[at : at + _SECRET] in self._minted
            for run in _RUN.findall(data)
            for at in range(len(run) - _SECRET + 1)
        )


def _told_or_kept(folder: Path) -> Iterable[Path]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        kept = {"appendonlydir", "exports"} & {*parts} or any(part.startswith("spool") for part in parts)
        if (kept or path.suffix == ".log" or path.name == "log") and path.is_file():
            yield path


def _databases(postgres: Postgres) -> list[str]:
    with psycopg2.connect(postgres.superuser_url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")
        return [name for (name,) in cursor.fetchall()]
