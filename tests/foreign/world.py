"""A consumer that is not the caller's, with at least one row in every table that tells of consumers."""

import datetime as dt
import uuid
from typing import Any

from django.apps import apps
from django.db import models

from accounts.models import Consumer, ConsumerBudget, Membership
from accounts.sign_ins import begin
from audit import trail
from catalog.models import Service, Tier
from common import clock
from consumption.models import IdempotencyClaim
from finance.models import ExportJob, Reconciliation, ReportDelivery, ReportSchedule
from keys.models import KeyNotice
from metering.models import QuotaPeriod
from policy.models import Policy, PolicyViolation
from quotas.models import BudgetNotice, QuotaDrift
from tests import factories
from tests.ledger_rows import Calls
from tests.rollups import make_rollup

#: Tables whose rows are everybody's to name.
PUBLIC = (Tier, Policy)
OURS = (
    *("accounts", "analytics", "audit", "catalog", "consumption", "finance", "keys", "metering", "policy"),
    *("quotas", "sla"),
)


class Other:
    """The other consumer. ``hidden``: a draft that it alone is entitled to, and that nobody else may know of."""

    def __init__(self) -> None:
        self.owner = factories.make_member()
        self.consumer = self.owner.consumer
        begin(user=self.owner.user)
        self.hidden = factories.make_service(status=Service.Status.DRAFT)
        self.calls = Calls(self.hidden, self.consumer)
        self.key = self.calls.key
        factories.make_endpoint(self.hidden, credential="sk-of-the-other-0123456789")
        self._use()
        self._warn()
        self._pay()

    def _use(self) -> None:
        record = self.calls.record()
        of_both = {"consumer": self.consumer, "service": self.hidden}
        month = clock.now().date().replace(day=1)
        QuotaPeriod.objects.create(**of_both, month=month, used=15)
        QuotaDrift.objects.create(**of_both, month=month, counter=16, ledger=15, reason="a test")
        make_rollup(
            clock.now().replace(minute=0, second=0, microsecond=0),
            **of_both,
            api_key=self.key,
            price_version=self.hidden.price_versions.get(),
            tier=self.key.tier,
            status="success",
            currency="USD",
        )
        IdempotencyClaim.objects.create(
            consumer=self.consumer, key_hash=b"k" * 32, digest=b"d" * 32, request_id=record.id
        )

    def _warn(self) -> None:
        KeyNotice.objects.create(api_key=self.key, kind=KeyNotice.Kind.LEAKED)
        BudgetNotice.objects.create(
            consumer=self.consumer,
            scope="consumer",
            of=self.consumer.id,
            name="a test",
            period="month",
            begins_on=clock.month_of(clock.now()),
            amount=10,
            currency="USD",
            soft=False,
            threshold=80,
            spent=8,
        )
        PolicyViolation.objects.create(
            request_id=uuid.uuid4(),
            consumer=self.consumer,
            service=self.hidden,
            policy_id="a-rule",
            severity="warning",
            reason="a test",
            timestamp=clock.now(),
        )
        trail.record(actor="a test", action="seen", target_type="consumer", target_id=self.consumer.id)

    def _pay(self) -> None:
        now = clock.now()
        ConsumerBudget.objects.create(consumer=self.consumer, amount=100, currency="USD", period="month")
        ExportJob.objects.create(
            consumer=self.consumer,
            format="csv",
            start=now - dt.timedelta(days=1),
            end=now,
            ordered_by="a test",
        )
        look = Reconciliation.objects.create(
            started_at=now, months=[now.date()], pairs=1, found=1, positions={}, asked_by="a test"
        )
        report = ReportSchedule.objects.create(
            name="a test", format="csv", channel="email", recipients="a@x.example", consumer=self.consumer
        )
        ReportDelivery.objects.create(schedule=report, month=now.date().replace(day=1))
        look.differences.create(source="ledger", consumer=self.consumer, service=self.hidden, cause="a test")

    def is_whole(self) -> None:
        """Fails for a table of consumers that has no row of this one: it must be filled above first."""
        for model in apps.get_models():
            if model._meta.app_label in OURS and any(
                field.related_model in {Consumer, Membership} for field in _references(model)
            ):
                assert model._base_manager.exists(), f"no row of the other consumer in {model._meta.label}"


def _references(model: type[models.Model]) -> list[Any]:
    return [field for field in model._meta.concrete_fields if field.is_relation]


def every_id(*, but: frozenset[object] = frozenset()) -> set[str]:
    """Whatever names a row, in any table of ours: primary keys and UUIDs, and the public ids of keys."""
    found: set[object] = set()
    for model in apps.get_models():
        if model._meta.app_label not in OURS or model in PUBLIC or model._meta.proxy:
            continue
        columns = [
            field.attname
            for field in model._meta.concrete_fields
            if field.primary_key or isinstance(field, models.UUIDField) or field.name == "public_id"
        ]
        for row in model._base_manager.values_list(*columns):
            found.update(row)
    return {str(value) for value in found - but - {None}}


def kind_of(value: str) -> str:
    """``uuid``, ``number`` or ``text``."""
    try:
        uuid.UUID(value)
    except ValueError:
        return "number" if value.isdigit() else "text"
    return "uuid"
