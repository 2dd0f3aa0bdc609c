"""When a key was used last: in memory at once, in the database once a minute."""

import datetime as dt
import uuid
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from common import clock
from keys import last_used
from keys.models import ApiKey
from tests.api import with_key
from tests.factories import make_key

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    last_used._noted.clear()
    yield
    last_used._noted.clear()


def test_used_keys_are_written_in_one_statement_and_others_are_not() -> None:
    used = [make_key() for _ in range(3)]
    idle, _ = make_key()
    for _, text in used * 2:
        assert with_key(text).get("/api/v1/services").status_code == 200
    assert not ApiKey.objects.exclude(last_used_at=None).exists()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert last_used.write() == 3
    assert len(queries) == 1
    assert last_used.write() == 0
    for key, _ in used:
        key.refresh_from_db()
        assert key.last_used_at is not None
        assert clock.now() - key.last_used_at < dt.timedelta(minutes=1)
    idle.refresh_from_db()
    assert idle.last_used_at is None


def test_a_key_is_written_once_a_minute_at_most_whichever_process_says_so() -> None:
    key, _ = make_key(last_used_at=clock.now() - dt.timedelta(seconds=30))
    old, _ = make_key(last_used_at=clock.now() - dt.timedelta(seconds=90))
    for id_ in (key.id, old.id, uuid.uuid4()):
        last_used.note(id_)
    assert last_used.write() == 1
    was = key.last_used_at
    key.refresh_from_db()
    assert key.last_used_at == was


def test_a_refused_key_was_not_used() -> None:
    _, text = make_key(revoked_at=clock.now())
    assert with_key(text).get("/api/v1/services").status_code == 403
    assert last_used.write() == 0


@pytest.mark.django_db(transaction=True)
def test_gateways_are_not_told_of_it() -> None:
    key, _ = make_key()
    with connection.cursor() as cursor:
        cursor.execute("LISTEN marketplace_changes")
        raw = connection.connection
        raw.notifies.clear()
        last_used.note(key.id)
        assert last_used.write() == 1
        cursor.execute("SELECT 1")
        assert raw.notifies == []
        ApiKey.objects.filter(id=key.id).update(name="new")
        cursor.execute("SELECT 1")
        assert [notice.payload for notice in raw.notifies] == [f"api_keys:{key.public_id}"]
        cursor.execute("UNLISTEN *")
