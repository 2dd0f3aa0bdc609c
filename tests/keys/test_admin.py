"""API keys in the console."""

import datetime as dt
import re
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from accounts.budgets import Budget
from accounts.models import User
from audit.models import AuditEntry
from catalog.models import Entitlement
from common import clock
from keys.authentication import grant_of
from keys.models import ApiKey
from tests.console import console, operator, posted
from tests.factories import make_entitlement, make_key, make_service

pytestmark = pytest.mark.django_db

KEYS = "/admin/keys/apikey/"


@pytest.fixture
def boss() -> User:
    return operator("admin")


@pytest.fixture
def client(boss: User) -> Client:
    return console(boss)


@pytest.fixture
def entitled() -> Entitlement:
    return make_entitlement(tier="premium")


def issue(client: Client, entitled: Entitlement, **changed: Any) -> Any:
    form = {
        "consumer": entitled.consumer_id,
        "service": entitled.service_id,
        "tier": "premium",
        "name": "ops",
        "environment": "live",
        "scopes": ["consume", "quota:read"],
        **changed,
    }
    return client.post(f"{KEYS}add/", form)


def test_a_key_is_shown_once_on_a_page_that_nothing_keeps(
    client: Client, boss: User, entitled: Entitlement
) -> None:
    response = issue(client, entitled, expires_in_days=30)

    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    found = re.search(r"mk_live_\w+", response.content.decode())
    assert found is not None
    text = found.group()
    key = ApiKey.objects.get()
    assert grant_of(text, None).api_key_id == key.id
    assert key.scopes == ["consume", "quota:read"]
    assert key.expires_at is not None
    assert dt.timedelta(days=29) < key.expires_at - clock.now() <= dt.timedelta(days=30)
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target_id) == (boss.username, "api_key_created", str(key.id))
    kept = [
        client.get(KEYS).content.decode(),
        client.get(f"{KEYS}{key.id}/change/").content.decode(),
        str(dict(client.session)),
        str(list(AuditEntry.objects.values())),
        str(list(LogEntry.objects.values())),
        str(client.cookies),
    ]
    for page in kept:
        assert text not in page
        assert key.key_hash not in page


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tier": "enterprise"}, "The tier is higher than the entitlement allows."),
        ({"service": "other"}, "The caller is not entitled to this service."),
    ],
)
def test_what_no_entitlement_allows_is_not_issued(
    client: Client, entitled: Entitlement, changed: dict[str, Any], said: str
) -> None:
    other = make_entitlement()  # makes the tier enterprise too
    fields = {"service": str(other.service_id)} if "service" in changed else changed
    response = issue(client, entitled, **fields)
    assert response.context["adminform"].form.non_field_errors() == [said]
    assert not ApiKey.objects.exists()
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize(
    "changed", [{"consumer": ""}, {"tier": "gold"}, {"expires_in_days": 0}, {"expires_in_days": 3651}]
)
def test_a_form_that_is_not_valid_issues_nothing(
    client: Client, entitled: Entitlement, changed: dict[str, Any]
) -> None:
    assert issue(client, entitled, **changed).context["adminform"].form.errors
    assert not ApiKey.objects.exists()


def test_without_a_service_a_key_is_for_all_of_them(client: Client, entitled: Entitlement) -> None:
    assert b"all services it is entitled to" in issue(client, entitled, service="").content
    assert ApiKey.objects.get().service is None


def test_revoking_by_action_and_by_button(client: Client, boss: User) -> None:
    first, second = make_key()[0], make_key()[0]
    client.post(KEYS, {"action": "revoke", "_selected_action": [str(first.id)]})
    assert client.get(f"{KEYS}{second.id}/revoke/").status_code == 405
    assert b'id="revoke"' in client.get(f"{KEYS}{second.id}/change/").content
    for _ in range(2):
        assert client.post(f"{KEYS}{second.id}/revoke/").status_code == 302
    assert ApiKey.objects.filter(revoked_at=None).count() == 0
    assert b'id="revoke"' not in client.get(f"{KEYS}{second.id}/change/").content
    entries = AuditEntry.objects.order_by("id")
    assert [(e.actor, e.action, e.target_id) for e in entries] == [
        (boss.username, "api_key_revoked", str(first.id)),
        (boss.username, "api_key_revoked", str(second.id)),
    ]


def test_a_viewer_sees_keys_and_ends_none() -> None:
    key, _ = make_key()
    viewer = console(operator("viewer"))
    assert viewer.get(f"{KEYS}{key.id}/change/").status_code == 200
    assert viewer.post(f"{KEYS}{key.id}/revoke/").status_code == 403
    viewer.post(KEYS, {"action": "revoke", "_selected_action": [str(key.id)]})
    assert viewer.get(f"{KEYS}add/").status_code == 403
    assert ApiKey.objects.get().revoked_at is None


def test_rotating_shows_the_new_secret_once_and_only_to_who_may(client: Client, boss: User) -> None:
    key, _ = make_key()
    page = client.get(f"{KEYS}{key.id}/change/").content.decode()
    assert 'id="rotate"' in page
    assert client.get(f"{KEYS}{key.id}/rotate/").status_code == 405
    assert client.post(f"{KEYS}{key.id}/rotate/", {"overlap": "5"}).status_code == 400
    assert console(operator("viewer")).post(f"{KEYS}{key.id}/rotate/", {"overlap": "0"}).status_code == 403
    assert ApiKey.objects.count() == 1

    response = client.post(f"{KEYS}{key.id}/rotate/", {"overlap": "3600"})
    assert "no-store" in response["Cache-Control"]
    found = re.search(r"mk_live_\w+", response.content.decode())
    assert found is not None
    made = ApiKey.objects.get(generation=1)
    assert grant_of(found.group(), None).api_key_id == made.id
    entry = AuditEntry.objects.get(action="api_key_rotated")
    assert (entry.actor, entry.target_id) == (boss.username, str(key.id))

    assert client.post(f"{KEYS}{key.id}/rotate/", {"overlap": "0"}).status_code == 302
    assert "was rotated already" in client.get(f"{KEYS}{key.id}/change/").content.decode()
    assert ApiKey.objects.count() == 2


def test_scopes_networks_and_limits_are_changed_and_told(client: Client, boss: User) -> None:
    key, _ = make_key()
    form = {
        "name": "",
        "scopes": ["usage:read"],
        "allowed_networks": "10.0.0.0/8,192.0.2.1",
        "requests_per_second": "5",
        "tokens_per_month": "",
        "budget_amount": "12.5",
        "budget_currency": "EUR",
        "budget_period": "month",
    }
    posted(client, f"{KEYS}{key.id}/change/", **form)
    key.refresh_from_db()
    assert (key.scopes, key.allowed_networks) == (["usage:read"], ["10.0.0.0/8", "192.0.2.1"])
    assert key.budget == Budget(Decimal("12.5"), "EUR", "month")
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.before["scopes"]) == (
        boss.username,
        "api_key_changed",
        ["consume", "usage:read", "quota:read"],
    )
    for wrong in ({"allowed_networks": "10.0.0.1/8"}, {"budget_currency": ""}, {"budget_amount": "-1"}):
        response = client.post(f"{KEYS}{key.id}/change/", {**form, **wrong})
        assert response.context["adminform"].form.errors
    assert AuditEntry.objects.count() == 1


def test_only_what_is_said_of_a_key_can_be_changed(client: Client, boss: User) -> None:
    key, _ = make_key(tier="basic")
    form = {
        "name": "new",
        "scopes": key.scopes,
        "tier": "enterprise",
        "revoked_at": "",
        "consumer": "x",
        "key_hash": "x",
        "expires_at": "x",
    }
    posted(client, f"{KEYS}{key.id}/change/", **form)
    changed = ApiKey.objects.get()
    assert (changed.name, changed.tier_id, changed.key_hash) == ("new", "basic", key.key_hash)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.before, entry.after) == ("api_key_changed", {"name": ""}, {"name": "new"})


def test_a_key_is_never_deleted(client: Client) -> None:
    key, _ = make_key()
    assert client.post(f"{KEYS}{key.id}/delete/", {"post": "yes"}).status_code == 403
    assert ApiKey.objects.exists()


def test_the_list_filters_by_state(client: Client) -> None:
    service = make_service()
    make_key(service=service, name="runs")
    make_key(service=service, name="ran-out", expires_at=clock.now() - dt.timedelta(days=1))
    make_key(service=service, name="was-ended", revoked_at=clock.now())
    for state, name in (("active", "runs"), ("expired", "ran-out"), ("revoked", "was-ended")):
        listed = client.get(KEYS, {"state": state}).context["cl"].result_list
        assert [key.name for key in listed] == [name]
