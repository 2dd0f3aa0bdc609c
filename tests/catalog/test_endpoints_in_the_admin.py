"""Endpoints of a service in the console: their credentials go in, and never come out again."""

from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from audit.models import AuditEntry
from catalog.models import Endpoint, Service
from tests.catalog.test_admin import SERVICE, form_of
from tests.console import console, operator, posted
from tests.factories import make_endpoint, make_service

pytestmark = pytest.mark.django_db

SECRET = "planted-credential-4711"


@pytest.fixture
def boss() -> User:
    return operator()


@pytest.fixture
def client(boss: User) -> Client:
    return console(boss)


def url_of(service: Service) -> str:
    return f"{SERVICE}{service.id}/change/"


def rows(service: Service, *endpoints: dict[str, Any]) -> dict[str, Any]:
    """The service's form with these endpoints in it; one that is stored names its ``id``."""
    filled = {
        "endpoints-TOTAL_FORMS": len(endpoints),
        "endpoints-INITIAL_FORMS": sum("id" in endpoint for endpoint in endpoints),
    }
    for number, endpoint in enumerate(endpoints):
        row = {
            "id": "", "service": service.id, "base_url": "http://127.0.0.1:9/v1", "protocol": "openai",
            "upstream_model": "", "order": 0, "weight": 1, "enabled": "on", **endpoint,
        }  # fmt: skip
        filled |= {f"endpoints-{number}-{name}": value for name, value in row.items()}
    return form_of(service, **filled)


def errors_of(response: Any) -> list[dict[str, Any]]:
    return [dict(errors) for errors in response.context["inline_admin_formsets"][0].formset.errors]


def told() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    return [(entry.action, entry.before, entry.after) for entry in AuditEntry.objects.order_by("id")]


def time_of(endpoint: Endpoint) -> str | None:
    at = Endpoint.objects.get(id=endpoint.id).credential_set_at
    return at.isoformat() if at else None


def test_an_endpoint_is_made_changed_and_deleted_with_an_entry_each(client: Client) -> None:
    service = make_service()
    posted(
        client,
        url_of(service),
        **rows(service, {"new_credential": SECRET, "weight": 3, "protocol": "anthropic"}),
    )
    endpoint = Endpoint.objects.get()
    assert (endpoint.service, endpoint.weight, endpoint.protocol) == (service, 3, "anthropic")
    assert endpoint.open_credential() == SECRET
    made = {
        "id": str(endpoint.id), "service": str(service.id), "base_url": "http://127.0.0.1:9/v1",
        "protocol": "anthropic", "upstream_model": "", "weight": 3, "order": 0, "enabled": True,
        "credential_set_at": time_of(endpoint),
    }  # fmt: skip
    assert told() == [("endpoint_created", {}, made)]

    stored = {"id": endpoint.id, "weight": 3, "protocol": "anthropic"}
    posted(client, url_of(service), **rows(service, stored | {"order": 2}))
    posted(client, url_of(service), **rows(service, stored | {"order": 2, "DELETE": "on"}))
    assert not Endpoint.objects.exists()
    assert told()[1:] == [
        ("endpoint_changed", {"order": 0}, {"order": 2}),
        ("endpoint_deleted", made | {"order": 2}, {}),
    ]


def test_a_credential_is_replaced_and_removed_with_an_entry_each_and_kept_where_nothing_is_said(
    client: Client,
) -> None:
    endpoint = make_endpoint(credential="the-first-one")
    service, first = endpoint.service, time_of(endpoint)
    posted(client, url_of(service), **rows(service, {"id": endpoint.id, "new_credential": ""}))
    assert Endpoint.objects.get().open_credential() == "the-first-one"
    assert told() == []

    posted(client, url_of(service), **rows(service, {"id": endpoint.id, "new_credential": f" {SECRET}\n"}))
    assert Endpoint.objects.get().open_credential() == SECRET
    second = time_of(endpoint)
    posted(client, url_of(service), **rows(service, {"id": endpoint.id, "remove_credential": "on"}))
    assert Endpoint.objects.get().open_credential() is None
    assert told() == [
        ("endpoint_changed", {"credential_set_at": first}, {"credential_set_at": second}),
        ("endpoint_changed", {"credential_set_at": second}, {"credential_set_at": None}),
    ]


def test_no_page_and_no_entry_shows_a_credential(
    client: Client, boss: User, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service()
    posted(client, url_of(service), **rows(service, {"new_credential": SECRET}))
    endpoint = Endpoint.objects.get()
    sealed = bytes(endpoint.credential or b"").decode()
    not_valid = rows(service, {"id": endpoint.id, "new_credential": SECRET, "weight": 0})
    pages = [
        client.get(url_of(service)).content.decode(),
        client.get(f"{SERVICE}{service.id}/history/").content.decode(),
        client.get("/admin/audit/auditentry/").content.decode(),
        client.get(f"/admin/audit/auditentry/{AuditEntry.objects.get().pk}/change/").content.decode(),
        # A form that comes back with an error does not repeat it.
        client.post(url_of(service), not_valid).content.decode(),
        console(operator("viewer")).get(url_of(service)).content.decode(),
    ]  # fmt: skip
    assert f"set {endpoint.credential_set_at:%Y-%m-%d %H:%M:%S}" in pages[0]
    for page in [*pages, caplog.text, str(told())]:
        assert SECRET not in page
        assert sealed not in page


def test_whether_there_is_one_is_shown_and_whether_it_can_be_used(client: Client, settings: Any) -> None:
    endpoint = make_endpoint()
    assert "not set" in client.get(url_of(endpoint.service)).content.decode()
    endpoint.set_credential(SECRET)
    endpoint.save()
    assert "cannot be opened" not in client.get(url_of(endpoint.service)).content.decode()
    settings.CREDENTIAL_KEYS = ["B" * 43 + "="]
    assert "cannot be opened" in client.get(url_of(endpoint.service)).content.decode()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"base_url": "http://evil.example/v1"}, "base_url"),
        ({"base_url": "http://127.1/v1"}, "base_url"),
        ({"base_url": "http://127.1/v1", "new_credential": "another"}, "base_url"),
        ({"new_credential": "two words"}, "new_credential"),
        ({"new_credential": "another", "remove_credential": "on"}, "remove_credential"),
        ({"weight": 0}, "weight"),
        ({"protocol": "gopher"}, "protocol"),
    ],
    ids=str,
)
def test_what_is_not_valid_changes_nothing(client: Client, given: dict[str, Any], field: str) -> None:
    endpoint = make_endpoint(credential=SECRET)
    before = Endpoint.objects.values().get()
    response = client.post(url_of(endpoint.service), rows(endpoint.service, {"id": endpoint.id, **given}))
    assert [list(errors) for errors in errors_of(response)] == [[field]]
    assert Endpoint.objects.values().get() == before
    assert told() == []


@pytest.mark.parametrize("given", [{"new_credential": "another"}, {"remove_credential": "on"}], ids=str)
def test_an_endpoint_moves_to_another_host_with_a_credential_of_its_own_or_none(
    client: Client, given: dict[str, Any]
) -> None:
    endpoint = make_endpoint(credential=SECRET)
    moved = {"id": endpoint.id, "base_url": "https://llm.example/v1", **given}
    posted(client, url_of(endpoint.service), **rows(endpoint.service, moved))
    stored = Endpoint.objects.get()
    assert (stored.base_url, stored.open_credential()) == (
        "https://llm.example/v1",
        given.get("new_credential"),
    )


def test_who_may_only_look_changes_no_endpoint(client: Client) -> None:
    endpoint = make_endpoint(credential=SECRET)
    form = rows(endpoint.service, {"id": endpoint.id, "remove_credential": "on", "weight": 9})
    for role in ("viewer", "finance", "approver"):
        console(operator(role)).post(url_of(endpoint.service), form)
    stored = Endpoint.objects.get()
    assert (stored.weight, stored.open_credential()) == (1, SECRET)
    assert (
        "new_credential" not in console(operator("approver")).get(url_of(endpoint.service)).content.decode()
    )


def test_deadlines_and_fallback_are_changed_with_an_entry(client: Client) -> None:
    service, fallback = make_service(), make_service()
    changed = {
        "connect_seconds": 2, "first_byte_seconds": 9, "idle_seconds": 3, "least_bytes_per_second": "",
        "on_client_gone": "drain", "outage_mode": "local", "fallback": fallback.id,
    }  # fmt: skip
    posted(client, url_of(service), **form_of(service, **changed))
    after = changed | {"least_bytes_per_second": None, "fallback": str(fallback.id)}
    before = {
        "connect_seconds": 5, "first_byte_seconds": None, "idle_seconds": 60, "least_bytes_per_second": 1,
        "on_client_gone": "cancel", "outage_mode": "closed", "fallback": None,
    }  # fmt: skip
    assert told() == [("service_changed", before, after)]
    response = client.post(url_of(fallback), form_of(fallback, fallback=service.id))
    assert response.context["adminform"].form.errors == {"fallback": ["It would fall back to itself"]}
    assert not Service.objects.get(id=fallback.id).fallback_id
