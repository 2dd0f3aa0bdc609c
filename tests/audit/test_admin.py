"""The audit trail in the console, and every page of it for every role."""

import pytest
from django.contrib import admin
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from accounts.roles import MARKETPLACE
from audit import trail
from audit.changes import differences, fields_of
from audit.models import AuditEntry
from tests.console import console, operator
from tests.factories import make_entitlement, make_key, make_member, make_user

pytestmark = pytest.mark.django_db


def entry() -> AuditEntry:
    return trail.record(
        actor="ada",
        action="tier_changed",
        target_type="tier",
        target_id="basic",
        before={"rank": 1},
        after={"rank": "<b>2</b>"},
        address="127.0.0.1",
    )


def test_an_entry_is_shown_with_before_and_after_and_is_never_html() -> None:
    client = console(operator())
    made = entry()
    listed = client.get("/admin/audit/auditentry/").content.decode()
    assert "rank: 1 → &lt;b&gt;2&lt;/b&gt;" in listed
    shown = client.get(f"/admin/audit/auditentry/{made.pk}/change/").content.decode()
    assert "<b>2</b>" not in shown
    assert "&lt;b&gt;2&lt;/b&gt;" in shown


def test_nobody_writes_the_trail_by_hand() -> None:
    made = entry()
    client = console(make_user(is_staff=True, is_superuser=True))
    for url in ("add/", f"{made.pk}/change/", f"{made.pk}/delete/"):
        assert client.post(f"/admin/audit/auditentry/{url}", {"actor": "x", "post": "yes"}).status_code == 403
    assert AuditEntry.objects.count() == 1


def test_a_secret_is_no_field() -> None:
    key, _ = make_key()
    person = make_user(password="secret")
    assert "key_hash" not in fields_of(key)
    assert "password" not in fields_of(person)
    assert fields_of(key)["consumer"] == str(key.consumer_id)


def test_only_what_changed_is_told() -> None:
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 4, "d": 5}) == (
        {"b": 2, "c": 3},
        {"b": 4, "d": 5},
    )


@pytest.mark.parametrize("role", ["super_admin", "viewer"])
def test_every_list_and_form_answers_without_a_defect(role: str) -> None:
    """200 where the role may, 403 where not, and never a 500. What each role may: ``tests/accounts``."""
    make_key()
    make_member()
    make_entitlement()
    entry()
    person = operator(role)
    client = console(person)
    for model, model_admin in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        may_view = person.has_perm(f"{model._meta.app_label}.view_{model._meta.model_name}")
        listed = client.get(reverse(f"{name}_changelist"))
        assert listed.status_code in ({200} if may_view else {200, 302, 403}), name
        searched = client.get(reverse(f"{name}_changelist"), {"q": "x"}, follow=True)
        assert searched.status_code in {200, 403}, name
        assert client.get(reverse(f"{name}_add")).status_code in {200, 403}, name
        row = model._default_manager.first()
        if row is not None:
            shown = client.get(reverse(f"{name}_change", args=[row.pk]))
            assert shown.status_code in ({200} if may_view else {200, 302, 403}), name
        assert model_admin.list_display != ("__str__",) or model._meta.app_label not in MARKETPLACE, name


def test_lists_ask_no_more_queries_for_more_rows() -> None:
    client = console(make_user(is_staff=True, is_superuser=True))
    urls = [
        "/admin/keys/apikey/", "/admin/catalog/service/", "/admin/catalog/entitlement/", "/admin/catalog/priceversion/",
        "/admin/accounts/user/", "/admin/accounts/consumer/", "/admin/accounts/membership/", "/admin/audit/auditentry/",
    ]  # fmt: skip

    def queries() -> list[int]:
        counted = []
        for url in urls:
            with CaptureQueriesContext(connection) as captured:
                assert client.get(url).status_code == 200
            counted.append(len(captured))
        return counted

    for _ in range(2):
        make_key()
        make_member()
        entry()
    few = queries()
    for _ in range(8):
        make_key()
        make_member()
        entry()
    assert queries() == few
