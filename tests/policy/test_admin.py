"""The console's pages on policies: what is refused, and what the audit trail says."""

import re
import uuid

import pytest
from django.contrib.admin.sites import site
from django.test import Client

from audit.models import AuditEntry
from common import clock
from policy.models import Policy, PolicyViolation
from tests.factories import make_consumer, make_service

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.console_urls")]

TEXT = 'forbid (principal, action, resource) when { context.tier == "basic" };'
FIELDS = {
    "id": "no-basic",
    "description": "Not for this tier.",
    "enabled": "on",
    "severity": "warning",
    "fail_mode": "closed",
    "text": TEXT,
}
STORED = {**FIELDS, "enabled": True}


@pytest.fixture
def console(admin_client: Client) -> Client:
    return admin_client


def entries() -> list[tuple[str, str, str, str, dict[str, object], dict[str, object], str | None]]:
    return [
        (row.actor, row.action, row.target_type, row.target_id, row.before, row.after, row.address)
        for row in AuditEntry.objects.order_by("id")
    ]


def test_a_policy_is_made_changed_and_deleted_with_an_entry_each(console: Client) -> None:
    assert console.post("/admin/policy/policy/add/", FIELDS).status_code == 302
    change = {name: value for name, value in FIELDS.items() if name not in {"id", "enabled"}}
    page = "/admin/policy/policy/no-basic/"
    assert console.post(f"{page}change/", change).status_code == 302
    assert console.post(f"{page}change/", change).status_code == 302  # changes nothing
    assert console.post(f"{page}delete/", {"post": "yes"}).status_code == 302
    who = ("admin", "policy", "no-basic", "127.0.0.1")
    assert [(row[0], row[2], row[3], row[6]) for row in entries()] == [who] * 3
    assert [(row[1], row[4], row[5]) for row in entries()] == [
        ("policy_created", {}, STORED),
        ("policy_changed", {"enabled": True}, {"enabled": False}),
        ("policy_deleted", {**STORED, "enabled": False}, {}),
    ]


def test_several_deleted_at_once_have_an_entry_each(console: Client) -> None:
    ids = sorted(Policy.objects.values_list("id", flat=True))
    chosen = {"action": "delete_selected", "_selected_action": ids, "post": "yes"}
    assert console.post("/admin/policy/policy/", chosen).status_code == 302
    assert not Policy.objects.exists()
    assert sorted((row[1], row[3]) for row in entries()) == [("policy_deleted", id_) for id_ in ids]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("permit (principal, action, resource);", "has to be a forbid"),
        (TEXT.replace("tier", "teir"), "attribute `teir` in context"),
        (TEXT + TEXT, "One policy is needed, here are 2."),
        ("nonsense", "Not a Cedar policy"),
        ("(" * 2_000, "nested more than 50 deep"),
    ],
)
def test_a_text_that_decides_nothing_is_refused_in_words(console: Client, text: str, words: str) -> None:
    answer = console.post("/admin/policy/policy/add/", {**FIELDS, "text": text})
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not Policy.objects.filter(id="no-basic").exists()
    assert entries() == []


def test_the_example_on_the_page_is_a_policy(console: Client) -> None:
    page = console.get("/admin/policy/policy/add/").content.decode()
    example = re.search(r"forbid \(principal.*?};", page, re.DOTALL)
    assert example is not None
    text = example.group().replace("&quot;", '"').replace("&amp;", "&")
    assert console.post("/admin/policy/policy/add/", {**FIELDS, "text": text}).status_code == 302


def test_violations_are_found_by_request_and_cannot_be_changed(console: Client) -> None:
    common = {
        "consumer": make_consumer(),
        "service": make_service(),
        "severity": "critical",
        "reason": "Why.",
    }
    first, second = (
        PolicyViolation.objects.create(
            **common, request_id=uuid.uuid4(), policy_id=policy_id, timestamp=clock.now()
        )
        for policy_id in ("data-residency", "data-classification")
    )
    page = "/admin/policy/policyviolation/"

    def shown(query: str) -> set[object]:
        answer = console.get(f"{page}?{query}")
        assert answer.status_code == 200
        return {row.pk for row in answer.context["cl"].result_list}

    assert shown("") == {first.pk, second.pk}
    assert shown(f"q={first.request_id}") == {first.pk}
    assert shown("q=half-an-id") == set()
    assert shown("policy=data-classification") == {second.pk}
    assert console.get(f"{page}{first.pk}/change/").status_code == 200
    assert console.post(f"{page}{first.pk}/change/", {"reason": "Other."}).status_code == 403
    assert console.post(f"{page}{first.pk}/delete/", {"post": "yes"}).status_code == 403
    assert console.get(f"{page}add/").status_code == 403


def test_every_model_is_in_the_console() -> None:
    assert {Policy, PolicyViolation} <= set(site._registry)
