"""The consumer's own keys over the REST API."""

import uuid
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import Consumer, Membership, User
from audit.models import AuditEntry
from catalog.models import Entitlement, Service
from common import clock
from keys.format import parse
from keys.hashing import verify_secret
from keys.models import ApiKey
from tests.api import exact, post_bytes, refusal, signed_in, with_key
from tests.factories import make_consumer, make_entitlement, make_key, make_member, make_service, make_tier

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

KEYS = "/api/v1/keys"
NO_LIMITS = dict.fromkeys(
    ("requests_per_second", "tokens_per_month", "concurrent_requests", "tokens_per_minute", "budget")
)


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
        "limits": NO_LIMITS,
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
        "concurrent_requests": None,
        "tokens_per_minute": None,
        "budget_amount": None,
        "budget_currency": "",
        "budget_period": "",
        "budget_soft": False,
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
        ("environment", "prod"), ("scopes", ["admin"]), ("scopes", "consume"), ("scopes", ["consume"] * 4),
        ("allowed_networks", []), ("allowed_networks", ["10.0.0.1/8"]), ("allowed_networks", ["10.0.0.0/8"] * 51),
        ("limits", {"requests_per_second": -1}), ("limits", {"requests_per_second": True}), ("limits", {"rps": 1}),
        ("limits", {"concurrent_requests": -1}), ("limits", {"tokens_per_minute": "5"}),
        ("limits", {"tokens_per_month": "5"}), ("limits", {"tokens_per_month": 10**16}), ("limits", []),
        ("limits", {"budget": {"amount": 5, "currency": "USD", "period": "day"}}),
        ("limits", {"budget": {"amount": "-1", "currency": "USD", "period": "day"}}),
        ("limits", {"budget": {"amount": "NaN", "currency": "USD", "period": "day"}}),
        ("limits", {"budget": {"amount": "9000001", "currency": "USD", "period": "day"}}),
        ("limits", {"budget": {"amount": "5", "currency": "usd", "period": "day"}}),
        ("limits", {"budget": {"amount": "5", "currency": "US D", "period": "day"}}),
        ("limits", {"budget": {"amount": "5", "currency": "USD", "period": "year"}}),
        ("limits", {"budget": {"amount": "5", "currency": "USD"}}),
        ("metadata", []), ("metadata", {"a": "x" * 1100}), ("metadata", None),
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


def test_a_page_stays_right_while_keys_are_made() -> None:
    consumer, service = make_consumer(), make_service()
    made = [str(make_key(consumer, service)[0].id) for _ in range(4)]
    client = signed_in(make_member(consumer).user)
    first = client.get(KEYS, {"limit": 2}).json()
    make_key(consumer, service)
    second = client.get(first["next"]).json()
    assert [row["id"] for row in first["results"] + second["results"]] == made[::-1]
    back = client.get(second["previous"]).json()
    assert back["results"] == first["results"]


@pytest.mark.parametrize("cursor", ["x", "cD0=", "bz0tMQ==", "%00", "bz05OTk5OTk5OTk5OTk5OTk5OTk5OTk5"])
def test_a_cursor_that_somebody_made_up_is_refused_or_empty(owner: User, cursor: str) -> None:
    assert signed_in(owner).get(f"{KEYS}?cursor={cursor}").status_code in {200, 404}


OPTIONS: dict[str, Any] = {
    "name": "night job",
    "scopes": ["quota:read", "consume"],
    "allowed_networks": ["192.0.2.7", "2001:db8::/32"],
    "limits": {
        "requests_per_second": 0,
        "tokens_per_month": 5_000,
        "concurrent_requests": 3,
        "budget": {"amount": "12.50", "currency": "EUR", "period": "month", "soft": True},
    },
    "metadata": {"team": "blue", "deep": {"er": [1, None]}},
}
SHOWN: dict[str, Any] = {
    **OPTIONS,
    "scopes": ["consume", "quota:read"],
    "allowed_networks": ["192.0.2.7/32", "2001:db8::/32"],
    "limits": {
        "requests_per_second": 0,
        "tokens_per_month": 5_000,
        "concurrent_requests": 3,
        "tokens_per_minute": None,
        "budget": {"amount": Decimal("12.5"), "currency": "EUR", "period": "month", "soft": True},
    },
}


def test_what_is_said_of_a_key_is_kept_and_shown(owner: User, entitled: Entitlement) -> None:
    made = exact(create(owner, service_id=str(entitled.service_id), tier="basic", **OPTIONS))
    assert {name: made[name] for name in OPTIONS} == SHOWN
    shown = exact(signed_in(owner).get(f"{KEYS}/{made['id']}"))
    assert {name: shown[name] for name in OPTIONS} == SHOWN


def test_a_change_changes_what_it_names_and_is_told(owner: User, entitled: Entitlement) -> None:
    key, _ = make_key(entitled.consumer, entitled.service, tier="basic")
    url = f"{KEYS}/{key.id}"
    changed = exact(signed_in(owner).patch(url, OPTIONS, format="json"))
    assert {name: changed[name] for name in OPTIONS} == SHOWN
    assert "key" not in changed
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target_id) == (owner.username, "api_key_changed", str(key.id))
    assert (entry.before["name"], entry.after["name"]) == ("", "night job")
    assert (entry.before["requests_per_second"], entry.after["requests_per_second"]) == (None, 0)

    less = {"limits": {"budget": None}, "allowed_networks": None}
    shown = exact(signed_in(owner).patch(url, less, format="json"))
    assert shown["limits"] == {**SHOWN["limits"], "budget": None}
    assert shown["allowed_networks"] is None
    assert shown["name"] == "night job"
    same: list[dict[str, Any]] = [{}, {"name": "night job"}, {"limits": {}}]
    for nothing in same:
        assert signed_in(owner).patch(url, nothing, format="json").status_code == 200
    assert AuditEntry.objects.count() == 2


@pytest.mark.parametrize(
    "field",
    [
        "tier",
        "service_id",
        "environment",
        "consumer_id",
        "expires_at",
        "revoked_at",
        "generation",
        "lineage_id",
    ],
)
def test_what_never_changes_of_a_key_is_refused(field: str) -> None:
    key, _ = make_key(tier="basic")
    response = signed_in(make_member(key.consumer).user).patch(
        f"{KEYS}/{key.id}", {field: "x"}, format="json"
    )
    assert refusal(response) == (422, "invalid_field")
    assert not AuditEntry.objects.exists()


def test_a_key_that_has_ended_is_not_changed() -> None:
    key, _ = make_key(revoked_at=clock.now())
    response = signed_in(make_member(key.consumer).user).patch(
        f"{KEYS}/{key.id}", {"name": "x"}, format="json"
    )
    assert refusal(response) == (409, "api_key_not_usable")
    key.refresh_from_db()
    assert key.name == ""


@pytest.mark.parametrize("role", ["billing", "viewer"])
def test_who_does_not_manage_keys_neither_changes_nor_rotates_them(role: str) -> None:
    key, _ = make_key()
    client = signed_in(make_member(key.consumer, role=role).user)
    assert client.get(f"{KEYS}/{key.id}").status_code == 200
    for answer in (
        client.patch(f"{KEYS}/{key.id}", {"name": "x"}, format="json"),
        client.post(f"{KEYS}/{key.id}/rotate", {}, format="json"),
    ):
        assert refusal(answer) == (403, "forbidden")
    assert ApiKey.objects.get().name == ""


def test_a_test_key_is_for_services_for_testing_and_sees_no_others(
    owner: User, entitled: Entitlement
) -> None:
    sandbox = make_entitlement(entitled.consumer, make_service(testing=True), tier="premium").service
    for service, environment in ((entitled.service, "test"), (sandbox, "live")):
        response = create(owner, service_id=str(service.id), tier="basic", environment=environment)
        assert refusal(response) == (403, "other_environment")
    assert nothing_was_made()

    for environment, seen, unseen in (
        ("test", sandbox, entitled.service),
        ("live", entitled.service, sandbox),
    ):
        made = create(owner, tier="basic", environment=environment).json()
        assert made["environment"] == environment
        assert made["key"].startswith(f"mk_{environment}_")
        client = with_key(made["key"])
        listed = client.get("/api/v1/services").json()["results"]
        assert [row["id"] for row in listed] == [str(seen.id)]
        assert client.get(f"/api/v1/quota/{seen.id}").status_code == 200
        for route in ("quota", "usage", "services"):
            assert refusal(client.get(f"/api/v1/{route}/{unseen.id}")) == (403, "access_denied")
    assert len(signed_in(owner).get("/api/v1/services").json()["results"]) == 2


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
