"""Rotating keys: both work until the overlap has passed, or one is revoked."""

import datetime as dt
import threading
import uuid
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import User
from audit.models import AuditEntry
from common import clock
from keys.errors import KeyNotUsable, KeyReplaced
from keys.issuing import revoke_key, rotate_key
from keys.models import ApiKey
from tests.api import refusal, signed_in, with_key
from tests.committed import audit_trail_may_be_emptied, committed
from tests.factories import make_key, make_member

__all__ = ["audit_trail_may_be_emptied", "committed"]

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

DAY = dt.timedelta(days=1)
SERVICES = "/api/v1/services"


def url(key: ApiKey) -> str:
    return f"/api/v1/keys/{key.id}/rotate"


def rotated(user: User, key: ApiKey, **body: Any) -> Any:
    return signed_in(user).post(url(key), body, format="json")


def works(text: str) -> bool:
    status = with_key(text).get(SERVICES).status_code
    assert status in {200, 403}
    return status == 200


def test_both_keys_work_until_the_overlap_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    key, old = make_key(
        name="ci",
        scopes=["consume"],
        requests_per_second=5,
        allowed_networks=["127.0.0.0/8"],
        metadata={"a": 1},
    )
    owner = make_member(key.consumer).user
    before = clock.now()
    response = rotated(owner, key, overlap_seconds=3600)

    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    new = response.json()["key"]
    assert new != old
    assert works(old)
    assert works(new)
    made = ApiKey.objects.get(id=response.json()["id"])
    key.refresh_from_db()
    assert (made.lineage, made.generation, key.generation) == (key.lineage, 1, 0)
    for column in ("name", "scopes", "requests_per_second", "allowed_networks", "metadata", "consumer_id"):
        assert getattr(made, column) == getattr(key, column)
    assert (made.service_id, made.tier_id, made.expires_at) == (key.service_id, key.tier_id, None)
    assert key.expires_at is not None
    assert dt.timedelta(0) <= key.expires_at - before - dt.timedelta(hours=1) < dt.timedelta(seconds=30)

    monkeypatch.setattr(clock, "now", lambda: before + dt.timedelta(hours=2))
    assert key.status == "expired"
    assert made.status == "active"


def test_without_overlap_the_old_key_ends_at_once() -> None:
    key, old = make_key()
    new = rotated(make_member(key.consumer).user, key, overlap_seconds=0).json()["key"]
    assert not works(old)
    assert works(new)


def test_a_revocation_beats_the_overlap() -> None:
    key, old = make_key()
    owner = make_member(key.consumer).user
    new = rotated(owner, key, overlap_seconds=3600).json()["key"]
    assert signed_in(owner).delete(f"/api/v1/keys/{key.id}").status_code == 204
    assert not works(old)
    assert works(new)


def test_an_overlap_never_makes_a_key_live_longer_and_its_successor_lives_as_long_as_it_was_made_for() -> (
    None
):
    soon = clock.now() + dt.timedelta(hours=1)
    key, _ = make_key(expires_at=soon)
    made, _ = rotate_key(key=key, overlap=DAY, actor="test")
    key.refresh_from_db()
    assert key.expires_at == soon
    assert made.expires_at is not None
    life = soon - key.created_at
    assert abs(made.expires_at - made.created_at - life) < dt.timedelta(seconds=5)


def test_what_is_no_overlap_rotates_nothing() -> None:
    key, _ = make_key()
    owner = make_member(key.consumer).user
    for body in ({"overlap_seconds": bad} for bad in (-1, 2_592_001, "60", True, 1.5, None)):
        assert refusal(rotated(owner, key, **body)) == (422, "invalid_field")
    assert refusal(rotated(owner, key, overlap=60)) == (422, "invalid_field")
    assert ApiKey.objects.count() == 1
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize(
    "ended", [{"revoked_at": clock.now()}, {"expires_at": clock.now() - dt.timedelta(seconds=1)}]
)
def test_a_key_that_has_ended_is_not_rotated(ended: dict[str, Any]) -> None:
    key, _ = make_key(**ended)
    assert refusal(rotated(make_member(key.consumer).user, key)) == (409, "api_key_not_usable")
    assert ApiKey.objects.count() == 1
    assert not AuditEntry.objects.exists()


def test_only_the_last_of_a_lineage_is_rotated_and_the_history_tells_all() -> None:
    key, _ = make_key()
    owner = make_member(key.consumer).user
    second = rotated(owner, key).json()
    assert refusal(rotated(owner, key)) == (409, "api_key_replaced")
    third = signed_in(owner).post(f"/api/v1/keys/{second['id']}/rotate", {}, format="json").json()
    expected = [str(key.id), second["id"], third["id"]]
    for id_ in expected:
        shown = signed_in(owner).get(f"/api/v1/keys/{id_}").json()
        assert [each["id"] for each in shown["history"]] == expected
        assert "key" not in shown
    actions = [(e.action, e.target_id) for e in AuditEntry.objects.order_by("id")]
    assert actions == [
        ("api_key_created", second["id"]),
        ("api_key_rotated", str(key.id)),
        ("api_key_created", third["id"]),
        ("api_key_rotated", second["id"]),
    ]
    entry = AuditEntry.objects.get(target_id=key.id)
    assert entry.before == {"expires_at": None}
    assert entry.after["replaced_by"] == second["id"]
    told = str(list(AuditEntry.objects.values()))
    assert second["key"] not in told
    assert third["key"] not in told


def test_a_key_of_others_looks_like_an_absent_one_on_every_route() -> None:
    key, _ = make_key()
    client = signed_in(make_member().user)
    for id_ in (key.id, uuid.uuid4()):
        answers = [
            client.get(f"/api/v1/keys/{id_}"),
            client.patch(f"/api/v1/keys/{id_}", {"name": "mine"}, format="json"),
            client.post(f"/api/v1/keys/{id_}/rotate", {}, format="json"),
        ]
        assert [refusal(answer) for answer in answers] == [(404, "key_not_found")] * 3
    key.refresh_from_db()
    assert (key.name, key.expires_at) == ("", None)
    assert not AuditEntry.objects.exists()


def test_a_revoked_key_cannot_be_brought_to_life_by_a_row_that_was_read_before() -> None:
    key, _ = make_key()
    stale = ApiKey.objects.get(id=key.id)
    revoke_key(key=key, actor="test")
    with pytest.raises(IntegrityError), transaction.atomic():
        stale.save()
    key.refresh_from_db()
    assert key.revoked_at is not None


def together(count: int, work: Any) -> list[Any]:
    """What each of some threads got, started at once."""
    results: list[Any] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        try:
            barrier.wait(10)
            results.append(work())
        except (KeyReplaced, KeyNotUsable) as error:
            results.append(type(error))
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return results


@pytest.mark.usefixtures("committed")
def test_of_rotations_at_once_one_makes_a_key() -> None:
    key, _ = make_key()
    results = together(4, lambda: rotate_key(key=key, overlap=DAY, actor="test"))
    assert results.count(KeyReplaced) == 3
    assert ApiKey.objects.filter(lineage=key.lineage).count() == 2
    assert AuditEntry.objects.filter(action="api_key_rotated").count() == 1


@pytest.mark.usefixtures("committed")
def test_a_key_that_is_being_revoked_is_not_rotated() -> None:
    key, _ = make_key()
    results: list[Any] = []
    with transaction.atomic():
        revoke_key(key=key, actor="test")
        thread = threading.Thread(
            target=lambda: results.extend(together(1, lambda: rotate_key(key=key, overlap=DAY, actor="test")))
        )
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()  # it waits for this transaction
    thread.join(10)
    assert results == [KeyNotUsable]
    assert ApiKey.objects.count() == 1
