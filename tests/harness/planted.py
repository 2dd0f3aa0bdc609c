"""Texts that may be kept nowhere, in every spelling of them, and all that the service keeps, to look through."""

import base64
import contextlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import redis
from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from psycopg2 import sql
from psycopg2.extensions import cursor as Cursor  # noqa: N812

#: Shorter pieces would be found by chance.
SHORTEST = 8
_HEX = re.compile(rb"\\x([0-9a-f]+)")


class Planted:
    """Texts by name, and where they are."""

    def __init__(self) -> None:
        self._spellings: dict[str, set[bytes]] = {}

    def plant(self, name: str, text: str, *pieces: str) -> str:
        """Remember ``text``, which is returned, and pieces of it that are secret by themselves."""
        assert name not in self._spellings, "two secrets of one name"
        self._spellings[name] = {
            form for each in (text, *pieces) for form in spellings(each.encode("latin-1"))
        }
        return text

    def key(self, name: str, text: str) -> str:
        """An API key: its secret part is one by itself."""
        return self.plant(name, text, text[25:68])

    def jwt(self, name: str, text: str) -> str:
        """A token: with its signature, whoever knows its claims has it."""
        return self.plant(name, text, text.rpartition(".")[2])

    @property
    def names(self) -> set[str]:
        return set(self._spellings)

    def found(self, places: Mapping[str, bytes]) -> list[str]:
        """``name in place`` for every secret in every place that holds it. What it says shows no secret."""
        return [
            f"{name} in {place}"
            for place, kept in places.items()
            for name, forms in self._spellings.items()
            if any(form in kept for form in forms)
        ]


def plant_settings(planted: Planted, *server_urls: str) -> None:
    """What the processes themselves run on."""
    planted.plant("SECRET_KEY", settings.SECRET_KEY)
    for number, pepper in settings.KEY_PEPPERS.items():
        planted.plant(f"pepper {number}", pepper.hex(), pepper.decode("latin-1"))
    for number, key in enumerate(settings.CREDENTIAL_KEYS):
        planted.plant(f"credential key {number}", key, base64.urlsafe_b64decode(key).decode("latin-1"))
    for url in server_urls:
        planted.plant(f"password in the URL of {urlsplit(url).scheme}", urlsplit(url).password or "")


def spellings(text: bytes) -> set[bytes]:
    """A text as JSON, URLs, HTML, Python, PostgreSQL, hexadecimal and Base64 would have it."""
    assert len(text) >= SHORTEST
    plain = text.decode("latin-1")
    return {
        text,
        json.dumps(plain)[1:-1].encode(),
        quote(text, safe="").encode(),
        quote(text).encode(),
        html.escape(plain).encode("latin-1"),
        repr(plain)[1:-1].encode(),
        text.hex().encode(),
        text.hex().upper().encode(),
        *_in_base64(text),
    }


def _in_base64(text: bytes) -> Iterator[bytes]:
    """As it looks inside a longer text, which may begin at any of three places, without what depends on neighbours."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + text)
        whole = encoded[(before * 8 + 5) // 6 : (before + len(text)) * 8 // 6]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))


def files_in(paths: Iterable[Path], since: Mapping[Path, int] | None = None) -> dict[str, bytes]:
    """Files by name; of one that was there before, what came ``since`` (bytes of it then)."""
    kept: dict[str, bytes] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # it went meanwhile
            data, size = path.read_bytes(), (since or {}).get(path, 0)
            kept[f"file {path}"] = data[size:] if len(data) >= size else data
    return kept


def letters_in(folder: Path) -> dict[str, bytes]:
    """Letters as their readers see them: on their way, lines are folded anywhere."""
    read = {path: message_from_bytes(path.read_bytes(), policy=default) for path in folder.iterdir()}
    return {
        f"letter {path}": "\n".join([*map(str, letter.values()), letter.get_content()]).encode()
        for path, letter in read.items()
    }


def tables(cursor: Cursor) -> dict[str, bytes]:
    """Every row of every table of a database, as text; of binary columns what they hold too."""
    cursor.execute(
        "SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind IN ('r', 'm') AND nspname !~ '^(pg_|information_schema)'"
    )
    return {f"table {name}": _table(cursor, schema, name) for schema, name in cursor.fetchall()}


def _table(cursor: Cursor, schema: str, name: str) -> bytes:
    copied = _Lines()
    statement = sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(schema, name))
    cursor.copy_expert(statement, copied)
    text = b"".join(copied)
    binary = b"\n".join(bytes.fromhex(found.decode()) for found in _HEX.findall(text) if len(found) % 2 == 0)
    return text + binary + (_sessions(text) if name == "django_session" else b"")


class _Lines(list[bytes]):
    """What COPY writes to."""

    write = list.append


def _sessions(text: bytes) -> bytes:
    """What sessions hold: signed, and compressed where that is shorter."""
    rows = (line.split(b"\t") for line in text.splitlines())
    return json.dumps([SessionStore().decode(row[1].decode()) for row in rows]).encode()


def over_the_wire(client: "redis.Redis") -> bytes:
    """Everything that one database of a Valkey holds."""
    reads: dict[bytes, Any] = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"stream": client.xrange,
    }
    kept: list[bytes] = []
    for key in client.scan_iter(count=1000):
        kind: Any = client.type(key)
        if kind != b"none":  # expired meanwhile
            kept += [key, *_flat(reads[kind](key))]
    return b"\n".join(kept)


def _flat(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, Mapping):
        yield from _flat(list(value.items()))
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _flat(each)


def slow_log(client: "redis.Redis") -> bytes:
    """Commands that Valkey wrote down, scripts' arguments included (their first 128 bytes)."""
    entries: Any = client.slowlog_get(100_000)
    return b"\n".join(entry["command"] for entry in entries)
