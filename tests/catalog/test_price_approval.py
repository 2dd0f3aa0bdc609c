"""Prices that wait for a second person; and that the database lets nobody change or remove one that was approved."""

import datetime as dt
import json
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import User
from audit.models import AuditEntry
from catalog import snapshot
from catalog.errors import NotASecondPerson
from catalog.models import PriceVersion, Service
from catalog.publishing import approve_price, change_price, publish_service, refuse_price
from common import clock
from tests.catalog.test_admin import SERVICE, form_of
from tests.console import console, operator, posted
from tests.factories import PER_REQUEST, PER_TOKEN, make_service

pytestmark = pytest.mark.django_db

VERSIONS = "/admin/catalog/priceversion/"


@pytest.fixture
def approval_required(settings: Any) -> None:
    settings.PRICE_APPROVAL_REQUIRED = True


def now_ms() -> int:
    return int(clock.now().timestamp() * 1000) + 1


def price_of(service: Service) -> Any:
    """What a gateway charges a call of now."""
    version = snapshot.load().offers[service.id].price_at(now_ms())
    return None if version is None else version.id


def propose(service: Service, effective_from: dt.datetime | None = None) -> PriceVersion:
    return change_price(service=service, pricing=PER_REQUEST, effective_from=effective_from, actor="ann")


@pytest.mark.usefixtures("approval_required")
class TestApproval:
    def test_a_price_holds_from_its_approval_by_somebody_else(self) -> None:
        service = make_service()
        [first] = service.price_versions.all()
        approve_price(version_id=first.id, actor="bob")
        waiting = propose(service)
        assert (price_of(service), waiting.effective_from) == (first.id, None)
        assert Service.objects.get().pricing == PER_TOKEN

        before = clock.now()
        assert approve_price(version_id=waiting.id, actor="bob")

        waiting.refresh_from_db()
        assert price_of(service) == waiting.id
        assert (waiting.proposed_by, waiting.approved_by) == ("ann", "bob")
        assert before <= waiting.begins == waiting.approved_at
        assert Service.objects.get().pricing == PER_REQUEST
        told = list(AuditEntry.objects.order_by("id").values_list("actor", "action"))
        assert told == [("bob", "price_approved"), ("ann", "price_proposed"), ("bob", "price_approved")]

    def test_who_entered_it_cannot_approve_it_and_nothing_changes(self) -> None:
        waiting = propose(make_service())
        with pytest.raises(NotASecondPerson):
            approve_price(version_id=waiting.id, actor="ann")
        assert PriceVersion.objects.get(id=waiting.id).approved_at is None

    def test_approving_twice_changes_nothing(self) -> None:
        waiting = propose(make_service())
        approve_price(version_id=waiting.id, actor="bob")
        assert not approve_price(version_id=waiting.id, actor="cem")
        assert PriceVersion.objects.get(id=waiting.id).approved_by == "bob"
        assert not refuse_price(version_id=waiting.id, actor="cem")

    @pytest.mark.parametrize("days", [-3, 3], ids=["past", "future"])
    def test_a_moment_that_was_meant_stays(self, days: int) -> None:
        meant = clock.now() + dt.timedelta(days=days)
        waiting = propose(make_service(), meant)
        approve_price(version_id=waiting.id, actor="bob")
        assert PriceVersion.objects.get(id=waiting.id).effective_from == meant

    def test_a_moment_that_passed_while_it_waited_is_the_approvals(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meant = clock.now() + dt.timedelta(hours=1)
        waiting = propose(make_service(), meant)
        monkeypatch.setattr(clock, "now", lambda: meant + dt.timedelta(hours=1))
        approve_price(version_id=waiting.id, actor="bob")
        waiting.refresh_from_db()
        assert waiting.effective_from == waiting.approved_at == meant + dt.timedelta(hours=1)

    def test_a_refused_price_is_gone_and_told_of(self) -> None:
        waiting = propose(make_service())
        assert refuse_price(version_id=waiting.id, actor="bob")
        assert not PriceVersion.objects.filter(id=waiting.id).exists()
        entry = AuditEntry.objects.latest("id")
        assert (entry.action, entry.after["pricing"], entry.after["proposed_by"]) == (
            "price_refused",
            PER_REQUEST,
            "ann",
        )

    def test_a_new_service_has_no_price_until_then(self) -> None:
        service = publish_service(
            actor="ann", name="new", version="1", endpoint="http://127.0.0.1:9/v1", pricing=PER_TOKEN
        )
        assert price_of(service) is None
        approve_price(version_id=service.price_versions.get().id, actor="bob")
        assert price_of(service) == service.price_versions.get().id

    def test_in_the_console(self) -> None:
        ann, bob = operator("admin"), operator("approver")
        service = make_service()
        posted(
            console(ann),
            f"{SERVICE}{service.id}/change/",
            **form_of(service, pricing=json.dumps(PER_REQUEST)),
        )
        waiting = service.price_versions.get(proposed_by=ann.username)

        self.act(ann, "approve", waiting)
        assert PriceVersion.objects.get(id=waiting.id).approved_at is None
        assert waiting.id in self.listed(bob)

        self.act(bob, "approve", waiting)
        assert PriceVersion.objects.get(id=waiting.id).approved_by == bob.username
        assert waiting.id not in self.listed(bob)

    def act(self, person: User, action: str, version: PriceVersion) -> None:
        answer = console(person).post(VERSIONS, {"action": action, "_selected_action": [str(version.id)]})
        assert answer.status_code == 302

    def listed(self, person: User) -> set[Any]:
        answer = console(person).get(VERSIONS, {"waiting": "1"})
        return {version.id for version in answer.context["cl"].result_list}


def test_a_price_may_begin_at_a_moment_that_is_told(client: Any) -> None:
    service = make_service()
    form = form_of(service, pricing=json.dumps(PER_REQUEST))
    at = {"price_from": "2999-01-01 00:00:00"}
    person = console(operator())
    posted(person, f"{SERVICE}{service.id}/change/", **form, **at)
    assert service.price_versions.filter(effective_from=dt.datetime(2999, 1, 1, tzinfo=clock.UTC)).exists()
    again = form_of(Service.objects.get(), pricing=json.dumps(PER_TOKEN))
    for taken in ({**again, **at}, {**again, **at, "pricing": json.dumps(PER_REQUEST)}):
        answer = person.post(f"{SERVICE}{service.id}/change/", taken)
        assert list(answer.context["adminform"].form.errors) == ["price_from"]
    assert service.price_versions.count() == 2


def refused(change: str, version: PriceVersion) -> None:
    with (
        pytest.raises(IntegrityError, match="never changed"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute(f"{change} WHERE id = %s", [version.id])


@pytest.mark.parametrize(
    "change",
    [
        "pricing = '{}'", "effective_from = now()", "approved_at = NULL", "approved_at = now()", "proposed_by = 'x'",
        "approved_by = 'x'", "created_at = now()", "effective_from = NULL",
    ],
)  # fmt: skip
def test_raw_sql_changes_nothing_of_an_approved_price(change: str) -> None:
    version = make_service().price_versions.get()
    refused("UPDATE price_versions SET " + change, version)  # noqa: S608 - constants
    refused("DELETE FROM price_versions", version)
    assert PriceVersion.objects.get().pricing == PER_TOKEN


@pytest.mark.usefixtures("approval_required")
@pytest.mark.parametrize(
    "change",
    [
        "approved_by = 'ann', approved_at = now(), effective_from = now()",
        "approved_by = '', approved_at = now(), effective_from = now()",
        "approved_by = 'bob', approved_at = now(), effective_from = now() - interval '1 day'",
        "approved_by = 'bob', approved_at = now(), effective_from = now(), pricing = '{}'",
        "approved_by = 'bob', approved_at = now(), effective_from = now(), proposed_by = 'cem'",
        "proposed_by = 'cem'",
        "pricing = '{}'",
    ],
)
def test_raw_sql_approves_nothing_for_the_first_person(change: str) -> None:
    waiting = propose(make_service())
    refused("UPDATE price_versions SET " + change, waiting)  # noqa: S608 - constants
    assert PriceVersion.objects.get(id=waiting.id).approved_at is None
