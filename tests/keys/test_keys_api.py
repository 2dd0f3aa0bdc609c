"""The consumer's own keys over the REST API."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest

from accounts.models import Consumer, Membership, User
from audit.models import AuditEntry
from catalog.models import Entitlement, Service
from common import clock
from keys.format import parse
from keys.hashing import verify_secret
from keys.models import ApiKey
from tests.api import post_bytes, refusal, signed_in, with_key
from tests.factories import make_consumer, make_entitlement, make_key, make_member, make_service, make_tier

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

KEYS = "/api/v1/keys"


@pytest.fixture(autouse=True)
def _tiers() -> None:
    for name in ("basic", "premium", "enterprise"):
        make_tier(name)


@pytest.fixture
def entitled() -> Entitlement:
    return make_entitlement(tier="premium")


@pytest.fixture
def owner(entitled: Entitlement) -> User:
    return make_member(entitled.consumer).user


def create(user: User, **body: Any) -> Any:
    return signed_in(user).post(KEYS, body, format="json")


def nothing_was_made() -> bool:
    return not ApiKey.objects.exists() and not AuditEntry.objects.exists()


def test_a_key_is_told_once_and_kept_as_a_hash(owner: User, entitled: Entitlement) -> None:
    before = clock.now()
    response = create(
        owner, service_id=str(entitled.service_id), tier="premium", expires_in_days=365, name="ci"
    )

    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    answer = response.json()
    key = ApiKey.objects.get()
    parsed = parse(answer["key"])
    assert parsed is not None
    assert verify_secret(key.key_hash, parsed.secret)
    assert parsed.secret not in key.key_hash
    assert answer == {
        "id": str(key.id),
        "key": answer["key"],
        "name": "ci",
        "last4": answer["key"][-4:],
        "service_id": str(entitled.service_id),
        "tier": "premium",
        "environment": "live",
        "scopes": ["consume", "usage:read", "quota:read"],
        "allowed_networks": None,
        "limits": {"requests_per_second": None, "tokens_per_month": None, "budget": None},
        "status": "active",
        "created_at": key.created_at.isoformat().replace("+00:00", "Z"),
        "expires_at": key.expires_at.isoformat().replace("+00:00", "Z") if key.expires_at else None,
        "revoked_at": None,
        "last_used_at": None,
        "lineage_id": str(key.lineage),
        "generation": 0,
        "metadata": {},
    }
    expires_at = datetime.fromisoformat(answer["expires_at"])
    assert timedelta(0) <= expires_at - before - timedelta(days=365) < timedelta(seconds=30)
    listed = signed_in(owner).get(KEYS).json()
    assert listed == {
        "next": None,
        "previous": None,
        "results": [{k: v for k, v in answer.items() if k != "key"}],
    }


def test_the_audit_trail_tells_of_a_new_key_and_not_of_its_secret(owner: User, entitled: Entitlement) -> None:
    answer = create(owner, service_id=str(entitled.service_id), tier="basic").json()
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target_type, entry.target_id) == ("api_key_created", "api_key", answer["id"])
    assert (entry.actor, entry.address, entry.before) == (owner.username, "127.0.0.1", {})
    assert entry.after == {
        "public_id": ApiKey.objects.get().public_id,
        "name": "",
        "consumer_id": str(entitled.consumer_id),
        "service_id": str(entitled.service_id),
        "tier": "basic",
        "environment": "live",
        "scopes": ["consume", "usage:read", "quota:read"],
        "allowed_networks": None,
        "requests_per_second": None,
        "tokens_per_month": None,
        "budget_amount": None,
        "budget_currency": "",
        "budget_period": "",
        "lineage": str(ApiKey.objects.get().lineage),
        "generation": 0,
        "expires_at": None,
    }


def test_without_a_service_the_tier_is_at_most_the_lowest_of_the_entitlements(
    owner: User, entitled: Entitlement
) -> None:
    make_entitlement(entitled.consumer, tier="basic")
    assert refusal(create(owner, tier="premium")) == (403, "tier_too_high")
    assert nothing_was_made()
    response = create(owner, tier="basic", service_id=None)
    assert response.status_code == 201
    assert response.json()["service_id"] is None


def test_a_tier_above_the_entitlement_is_refused(owner: User, entitled: Entitlement) -> None:
    response = create(owner, service_id=str(entitled.service_id), tier="enterprise")
    assert refusal(response) == (403, "tier_too_high")
    assert nothing_was_made()


def test_a_service_without_entitlement_is_refused(owner: User) -> None:
    assert refusal(create(owner, service_id=str(make_service().id), tier="basic")) == (403, "access_denied")
    assert nothing_was_made()


def test_a_consumer_without_any_entitlement_gets_no_key() -> None:
    assert refusal(create(make_member().user, tier="basic")) == (403, "access_denied")
    assert nothing_was_made()


@pytest.mark.parametrize("status", [Service.Status.DRAFT, Service.Status.REVIEW, Service.Status.INACTIVE])
def test_a_service_that_is_not_listed_looks_like_an_absent_one(owner: User, status: str) -> None:
    unlisted = make_service(status=status)
    answers = [create(owner, service_id=str(id_), tier="basic") for id_ in (unlisted.id, uuid.uuid4())]
    assert {refusal(answer) for answer in answers} == {(404, "service_not_found")}
    assert nothing_was_made()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tier", None), ("tier", "gold"), ("tier", 1), ("tier", {}),
        ("service_id", "x"), ("service_id", []),
        ("expires_in_days", 0), ("expires_in_days", 3651), ("expires_in_days", "soon"), ("expires_in_days", 10**18),
        ("expires_in_days", 1.5), ("expires_in_days", True),
        ("name", "x" * 101), ("name", {}),
    ],
)  # fmt: skip
def test_a_field_that_is_not_valid_is_named(
    owner: User, entitled: Entitlement, field: str, value: Any
) -> None:
    response = create(owner, **{"service_id": str(entitled.service_id), "tier": "basic", field: value})
    assert refusal(response) == (422, "invalid_field")
    assert [problem["field"] for problem in response.json()["errors"]] == [field]
    assert nothing_was_made()


@pytest.mark.parametrize("value", ['"\\ud800"', '"a\\u0000b"', str(10**30), "1e400", "NaN"])
def test_what_cannot_be_stored_is_malformed(owner: User, value: str) -> None:
    response = post_bytes(signed_in(owner), KEYS, b'{"tier": "basic", "name": %b}' % value.encode())
    assert refusal(response) == (400, "malformed_request")
    assert nothing_was_made()


@pytest.mark.parametrize(
    "field",
    [
        "id",
        "consumer_id",
        "key_hash",
        "public_id",
        "revoked_at",
        "lineage_id",
        "generation",
        "expire_in_days",
    ],
)
def test_what_is_not_asked_for_is_refused_and_not_passed_over(
    owner: User, entitled: Entitlement, field: str
) -> None:
    response = create(owner, service_id=str(entitled.service_id), tier="basic", **{field: "x"})
    assert refusal(response) == (422, "invalid_field")
    assert nothing_was_made()


@pytest.mark.parametrize("role", Membership.Role.values)
def test_owners_and_developers_manage_keys_and_all_members_see_them(role: str) -> None:
    key, _ = make_key(tier="basic")
    member = make_member(key.consumer, role=role)
    manages = role in {"owner", "developer"}

    assert signed_in(member.user).get(KEYS).status_code == 200
    created = create(member.user, service_id=str(key.service_id), tier="basic")
    assert created.status_code == (201 if manages else 403)
    revoked = signed_in(member.user).delete(f"{KEYS}/{key.id}")
    assert revoked.status_code == (204 if manages else 403)
    assert ApiKey.objects.count() == (2 if manages else 1)
    key.refresh_from_db()
    assert (key.revoked_at is not None) == manages


def test_an_api_key_cannot_manage_keys() -> None:
    _, text = make_key()
    for answer in (with_key(text).get(KEYS), with_key(text).post(KEYS, {"tier": "basic"}, format="json")):
        assert refusal(answer) == (401, "credentials_missing")


def test_revoking_ends_a_key_and_doing_it_again_changes_nothing() -> None:
    key, _ = make_key()
    owner = make_member(key.consumer).user
    url = f"{KEYS}/{key.id}"

    first = signed_in(owner).delete(url)
    assert (first.status_code, first.content) == (204, b"")
    key.refresh_from_db()
    revoked_at = key.revoked_at
    assert revoked_at is not None
    assert signed_in(owner).delete(url).status_code == 204

    key.refresh_from_db()
    assert key.revoked_at == revoked_at
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target_type, entry.target_id) == ("api_key_revoked", "api_key", str(key.id))
    assert (entry.actor, entry.before) == (owner.username, {"revoked_at": None})
    assert entry.after["revoked_at"] == revoked_at.isoformat()
    assert signed_in(owner).get(KEYS).json()["results"][0]["status"] == "revoked"


def test_a_key_of_others_looks_like_an_absent_one() -> None:
    key, _ = make_key()
    client = signed_in(make_member().user)
    answers = [client.delete(f"{KEYS}/{id_}") for id_ in (key.id, uuid.uuid4())]
    assert {refusal(answer) for answer in answers} == {(404, "key_not_found")}
    assert refusal(client.delete(f"{KEYS}/no-uuid")) == (404, "not_found")
    key.refresh_from_db()
    assert key.revoked_at is None
    assert not AuditEntry.objects.exists()


def test_a_list_goes_page_by_page_newest_first() -> None:
    consumer, service = make_consumer(), make_service()
    made = [str(make_key(consumer, service)[0].id) for _ in range(3)]
    client = signed_in(make_member(consumer).user)
    first = client.get(KEYS, {"limit": 2}).json()
    second = client.get(first["next"]).json()
    assert [row["id"] for row in first["results"] + second["results"]] == made[::-1]
    assert second["next"] is None


def test_an_expired_key_says_so() -> None:
    key, _ = make_key(expires_at=clock.now() - timedelta(seconds=1))
    assert signed_in(make_member(key.consumer).user).get(KEYS).json()["results"][0]["status"] == "expired"


def test_a_suspended_consumer_gets_no_key() -> None:
    entitled = make_entitlement(make_consumer(status=Consumer.Status.SUSPENDED))
    response = create(make_member(entitled.consumer).user, service_id=str(entitled.service_id), tier="basic")
    assert refusal(response) == (403, "consumer_suspended")
    assert nothing_was_made()


def test_a_method_that_does_not_exist_is_a_problem(owner: User) -> None:
    assert refusal(signed_in(owner).put(KEYS, {}, format="json")) == (405, "method_not_allowed")
