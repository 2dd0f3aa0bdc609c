"""Every action of every page of the console, in every role: what it may do, and that a refusal changes nothing."""

import datetime as dt
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db.models import Model
from django.test import RequestFactory
from django.urls import reverse

from accounts.models import ConsumerBudget, User
from accounts.roles import ROLES
from finance.exports import order
from finance.models import ReportDelivery, ReportSchedule
from metering import gateways
from metering.models import DeadLetter, Gateway
from tests.console import console, operator
from tests.factories import make_consumer, make_entitlement, make_key, make_member, make_service
from tests.foreign.rows import every_row
from tests.ledger_rows import Calls

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.console_urls")]

OF_AN_ADMIN = {
    "accounts.consumer:suspend", "accounts.consumer:reactivate", "accounts.consumerbudget:delete_selected",
    "accounts.membership:delete_selected", "catalog.entitlement:delete_selected", "keys.apikey:revoke",
    "metering.deadletter:retry", "policy.policy:delete_selected", "catalog.priceversion:approve",
    "catalog.priceversion:refuse",
}  # fmt: skip
OF_FINANCE = {
    "finance.exportjob:cancel", "finance.reportdelivery:again", "metering.deadletter:set_aside",
    "metering.gateway:dismiss", "metering.usagerecord:void",
}  # fmt: skip
#: What each role may do to many rows at once, in the apps that are ours.
MAY: dict[str, set[str]] = {
    "super_admin": OF_AN_ADMIN
    | OF_FINANCE
    | {"accounts.user:delete_selected", "accounts.user:reset_second_factor", "auth.group:delete_selected"},
    "admin": OF_AN_ADMIN,
    "approver": {"catalog.priceversion:approve", "catalog.priceversion:refuse"},
    "finance": OF_FINANCE,
    "viewer": set(),
    "service_account": set(),
}


def actions_of(person: User | None) -> set[str]:
    """All actions there are; with a person, those that the console offers them."""
    request: Any = RequestFactory().get("/")
    request.user = person
    found = set()
    for model, page in admin.site._registry.items():
        if person is not None and not page.has_view_permission(request):
            continue  # the list itself is refused, and with it what could be done on it
        every = [name for _, name, _ in page._get_base_actions()]  # type: ignore[attr-defined]
        names = every if person is None else page.get_actions(request)
        found |= {f"{model._meta.label_lower}:{name}" for name in names}
    return found


@pytest.fixture
def rows() -> dict[type[Model], Model]:
    """Something for every action of ours to do."""
    key, _ = make_key()
    make_entitlement()
    make_member()
    ConsumerBudget.objects.create(consumer=make_consumer(), amount=1, currency="USD", period="day")
    moment = key.created_at
    order(format="csv", start=moment - dt.timedelta(days=365), end=moment, actor="a test")
    report = ReportSchedule.objects.create(
        name="a test", format="csv", channel="email", recipients="a@x.example"
    )
    ReportDelivery.objects.create(schedule=report, month=moment.date().replace(day=1), state="unclear")
    gateways.report(gateways.Report("slot", "host", moment, open_calls=0, spooled=0, oldest_open=None))
    Gateway.objects.update(seen_at=moment - dt.timedelta(days=365))
    Calls(make_service()).record(status="unsettled")
    DeadLetter.objects.create(shard=0, epoch=1, stream_id="1-0", reason="unreadable", entry=b"{}")
    return {
        model: row
        for model in admin.site._registry
        if (row := model._default_manager.order_by("pk").first()) is not None
    }


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_the_table_says_and_a_refusal_changes_nothing(
    role: str, rows: dict[type[Model], Model]
) -> None:
    person = operator(role)
    ours = {app.label for app in apps.get_app_configs() if not app.name.startswith("django_celery")} - {
        "axes"
    }
    offered = {action for action in actions_of(person) if action.partition(".")[0] in ours}
    assert offered == MAY[role]

    client = console(person)
    client.get("/")  # so that the session has its row
    before = every_row()
    for action in sorted(actions_of(None) - actions_of(person)):
        label, _, name = action.partition(":")
        row = rows.get(apps.get_model(label))
        if row is None:
            continue
        url = reverse(f"admin:{label.replace('.', '_')}_changelist")
        answer = client.post(url, {"action": name, "_selected_action": [row.pk], "post": "yes"})
        assert answer.status_code in {200, 302, 403}, action
        assert every_row() == before, action
