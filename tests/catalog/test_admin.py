"""Services, prices, tiers and entitlements in the console, with what the audit trail says of every change."""

import datetime as dt
import json
from typing import Any

import pytest
from django.test import Client

from accounts.models import Consumer, Membership, User
from audit.models import AuditEntry
from catalog.models import Entitlement, PriceVersion, Service, Tier
from catalog.pricing_words import in_words
from tests.console import console, operator, posted
from tests.factories import (
    PER_REQUEST,
    PER_TOKEN,
    SUBSCRIPTION,
    make_consumer,
    make_entitlement,
    make_service,
    make_tier,
    make_user,
)

pytestmark = pytest.mark.django_db

SERVICE = "/admin/catalog/service/"


@pytest.fixture
def boss() -> User:
    return operator()


@pytest.fixture
def client(boss: User) -> Client:
    return console(boss)


def service_form(**changed: Any) -> dict[str, Any]:
    return {
        "name": "alpha", "version": "1.0", "status": "active", "endpoint": "https://llm.example/v1",
        "upstream_model": "", "default_max_tokens": 1024, "deadline_seconds": 30, "stream_deadline_seconds": 600,
        "pricing": json.dumps(PER_TOKEN),
        "sla": "", "region": "", "clearance": 1, "price_versions-TOTAL_FORMS": 0, "price_versions-INITIAL_FORMS": 0,
        "endpoints-TOTAL_FORMS": 0, "endpoints-INITIAL_FORMS": 0, "fallback": "", "connect_seconds": 5,
        "first_byte_seconds": "", "idle_seconds": 60, "least_bytes_per_second": 1, "on_client_gone": "cancel",
        "tokenizer": "", "outage_mode": "closed",
        **changed,
    }  # fmt: skip


def form_of(service: Service, **changed: Any) -> dict[str, Any]:
    stored = {
        field: getattr(service, field)
        for field in (
            "name",
            "version",
            "status",
            "endpoint",
            "default_max_tokens",
            "deadline_seconds",
            "stream_deadline_seconds",
            "clearance",
        )
    }
    return service_form(**stored, pricing=json.dumps(service.pricing), sla=json.dumps(service.sla)) | changed


def told() -> list[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    return [(e.actor, e.action, e.before, e.after) for e in AuditEntry.objects.order_by("id")]


def test_a_new_service_has_its_first_price_version(client: Client, boss: User) -> None:
    posted(
        client,
        f"{SERVICE}add/",
        **service_form(pricing='{"model":"per_token","rate_per_token":0.0001,"currency":"USD"}'),
    )

    service = Service.objects.get()
    assert service.pricing == PER_TOKEN
    assert service.price_versions.get().pricing == PER_TOKEN
    assert service.sla == {}
    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.target_id) == (boss.username, "service_created", str(service.id))
    assert (entry.address, entry.after["pricing"], entry.after["name"]) == ("127.0.0.1", PER_TOKEN, "alpha")


def test_a_changed_price_becomes_a_new_version_and_the_old_one_stays(client: Client, boss: User) -> None:
    service = make_service()
    first = service.price_versions.get()
    posted(client, f"{SERVICE}{service.id}/change/", **form_of(service, pricing=json.dumps(PER_REQUEST)))

    service.refresh_from_db()
    assert service.pricing == PER_REQUEST
    second = service.price_versions.exclude(id=first.id).get()
    assert second.pricing == PER_REQUEST
    assert second.begins > first.begins
    assert PriceVersion.objects.get(id=first.id).pricing == PER_TOKEN
    assert told() == [
        (
            boss.username,
            "price_published",
            {"pricing": PER_TOKEN},
            {
                "pricing": PER_REQUEST,
                "price_version": str(second.id),
                "effective_from": second.begins.isoformat(),
            },
        )
    ]


def test_another_change_makes_no_price_version(client: Client, boss: User) -> None:
    service = make_service()
    posted(client, f"{SERVICE}{service.id}/change/", **form_of(service, status="suspended"))
    assert Service.objects.get().status == "suspended"
    assert PriceVersion.objects.count() == 1
    assert told() == [(boss.username, "service_changed", {"status": "active"}, {"status": "suspended"})]


def test_saving_without_a_change_writes_nothing(client: Client) -> None:
    service = make_service()
    posted(client, f"{SERVICE}{service.id}/change/", **form_of(service))
    assert PriceVersion.objects.count() == 1
    assert told() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pricing", "{"), ("pricing", "{}"),
        ("pricing", '{"model": "per_token", "rate_per_token": "-1", "currency": "USD"}'),
        ("sla", '{"latency_p95_ms": -1}'), ("sla", '{"unknown": 1}'), ("sla", '{"uptime": 2}'), ("sla", "[]x"),
        ("endpoint", "llm.example"), ("endpoint", "ftp://llm.example/"), ("endpoint", "http://user:secret@llm.example/v1"),
        ("endpoint", "http://llm.example/v1?key=secret"), ("endpoint", "http://llm.example:99999/v1"),
        ("version", ""), ("status", "gone"),
    ],
)  # fmt: skip
def test_what_is_not_valid_changes_nothing(client: Client, field: str, value: str) -> None:
    service = make_service()
    response = client.post(f"{SERVICE}{service.id}/change/", form_of(service, **{field: value}))
    assert list(response.context["adminform"].form.errors) == [field]
    stored = Service.objects.get()
    assert (stored.pricing, stored.sla, stored.endpoint) == (PER_TOKEN, {}, service.endpoint)
    assert told() == []


def test_price_versions_are_to_read(client: Client) -> None:
    version = make_service().price_versions.get()
    url = f"/admin/catalog/priceversion/{version.id}"
    assert client.get(f"{url}/change/").status_code == 200
    assert client.post(f"{url}/change/", {"pricing": "{}"}).status_code == 403
    assert client.post(f"{url}/delete/", {"post": "yes"}).status_code == 403
    assert client.get("/admin/catalog/priceversion/add/").status_code == 403


@pytest.mark.parametrize(
    ("pricing", "words"),
    [
        (PER_TOKEN, "0.0001 USD per token"),
        (PER_REQUEST, "0.01 USD per request"),
        (SUBSCRIPTION, "subscription (USD)"),
        (
            {"model": "per_token", "rates": {"prompt": "1e-7", "completion": "0.20"}, "currency": "EUR"},
            "prompt 0.0000001, completion 0.2 EUR per token",
        ),
        ({"model": "barter"}, "—"),
    ],
)
def test_a_price_is_read_in_words(pricing: Any, words: str) -> None:
    assert in_words(pricing) == words


def test_a_tier_can_be_edited_and_the_trail_tells_of_it(client: Client, boss: User) -> None:
    make_tier("basic")
    form = {"rank": 10, "requests_per_second": 20, "tokens_per_month": ""}
    posted(client, "/admin/catalog/tier/basic/change/", **form)
    tier = Tier.objects.get(name="basic")
    assert (tier.requests_per_second, tier.tokens_per_month) == (20, None)
    assert told() == [
        (
            boss.username,
            "tier_changed",
            {"requests_per_second": 10, "tokens_per_month": 100_000},
            {"requests_per_second": 20, "tokens_per_month": None},
        )
    ]
    assert client.post("/admin/catalog/tier/basic/delete/", {"post": "yes"}).status_code == 403


def test_an_entitlement_is_made_changed_and_deleted_with_an_entry_each(client: Client, boss: User) -> None:
    consumer, service = make_consumer(), make_service()
    make_tier("basic")
    make_tier("premium")
    url = "/admin/catalog/entitlement/"
    posted(client, f"{url}add/", consumer=consumer.id, service=service.id, tier="basic")
    entitlement = Entitlement.objects.get()
    posted(client, f"{url}{entitlement.pk}/change/", tier="premium", concurrent_requests=5)
    assert Entitlement.objects.get().tier_id == "premium"
    posted(client, url, action="delete_selected", _selected_action=[entitlement.pk], post="yes")
    assert not Entitlement.objects.exists()
    made = {"id": entitlement.pk, "consumer": str(consumer.id), "service": str(service.id)}
    made |= {"budget_currency": "", "budget_period": "", "budget_soft": False}
    later = {"tier": "premium", "concurrent_requests": 5}
    assert told() == [
        (boss.username, "entitlement_created", {}, {**made, "tier": "basic"}),
        (boss.username, "entitlement_changed", {"tier": "basic", "concurrent_requests": None}, later),
        (boss.username, "entitlement_deleted", {**made, **later}, {}),
    ]


def test_whom_an_entitlement_is_for_never_changes(client: Client) -> None:
    entitlement = make_entitlement()
    url = f"/admin/catalog/entitlement/{entitlement.pk}/change/"
    posted(client, url, consumer=make_consumer().id, service=make_service().id, tier="enterprise")
    kept = Entitlement.objects.get()
    assert (kept.consumer_id, kept.service_id) == (entitlement.consumer_id, entitlement.service_id)


class TestConsumers:
    def form(self, **fields: Any) -> dict[str, Any]:
        return {
            "name": "Org", "residency": "", "memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0, **fields,
        }  # fmt: skip

    def test_suspended_and_reactivated_once_each(self, client: Client, boss: User) -> None:
        consumer = make_consumer()
        url = "/admin/accounts/consumer/"
        for action, status in (("suspend", "suspended"), ("reactivate", "active")):
            for _ in range(2):
                client.post(url, {"action": action, "_selected_action": [str(consumer.id)]})
            assert Consumer.objects.get().status == status
        assert told() == [
            (boss.username, "consumer_suspended", {"status": "active"}, {"status": "suspended"}),
            (boss.username, "consumer_reactivated", {"status": "suspended"}, {"status": "active"}),
        ]

    def test_a_role_is_given_changed_and_taken_with_an_entry_each(self, client: Client, boss: User) -> None:
        consumer, person = make_consumer("Org"), make_user()
        url = f"/admin/accounts/consumer/{consumer.id}/change/"
        row = {"memberships-0-user": person.pk, "memberships-0-consumer": consumer.id}
        new = {"memberships-TOTAL_FORMS": 1, "memberships-0-id": "", **row}
        posted(client, url, **self.form(**new | {"memberships-0-role": "viewer"}))
        membership = Membership.objects.get()
        old = {
            "memberships-TOTAL_FORMS": 1,
            "memberships-INITIAL_FORMS": 1,
            "memberships-0-id": membership.pk,
            **row,
        }
        posted(client, url, **self.form(**old | {"memberships-0-role": "owner"}))
        posted(
            client, url, **self.form(**old | {"memberships-0-role": "owner", "memberships-0-DELETE": "on"})
        )
        assert not Membership.objects.exists()
        made = {"id": membership.pk, "user": person.pk, "consumer": str(consumer.id)}
        assert told() == [
            (boss.username, "membership_created", {}, {**made, "role": "viewer"}),
            (boss.username, "membership_changed", {"role": "viewer"}, {"role": "owner"}),
            (boss.username, "membership_deleted", {**made, "role": "owner"}, {}),
        ]
        assert {e.target_id for e in AuditEntry.objects.all()} == {str(membership.pk)}

    def test_never_deleted(self, client: Client) -> None:
        consumer = make_consumer()
        response = client.post(f"/admin/accounts/consumer/{consumer.id}/delete/", {"post": "yes"})
        assert response.status_code == 403
        assert Consumer.objects.exists()

    def test_dates_are_unmistakable(self, client: Client) -> None:
        Consumer.objects.filter(id=make_consumer().id).update(
            created_at=dt.datetime(2026, 3, 4, 5, 6, 7, tzinfo=dt.UTC)
        )
        assert b"2026-03-04 05:06:07" in client.get("/admin/accounts/consumer/").content
