"""From the table to the engine, the rules that are there from the start, and violation rows."""

import importlib
import uuid

import pytest
from django.apps import apps
from django.db import connection

from common import clock
from policy.engine import PolicyEngine, Question, policy_error
from policy.models import Policy, PolicyViolation
from policy.rules import load_rules
from policy.violations import keep_violations
from tests.factories import make_consumer, make_service

pytestmark = pytest.mark.django_db

defaults = importlib.import_module("policy.migrations.0002_default_policies")


def add_defaults() -> None:
    with connection.schema_editor() as editor:
        defaults.add_defaults(apps, editor)


def test_a_fresh_marketplace_refuses_restricted_data_and_other_regions() -> None:
    add_defaults()
    policies = PolicyEngine(load_rules())
    assert policies.decide(Question(classification=1, clearance=1)).allowed
    restricted = policies.decide(Question(classification=3, clearance=1))
    assert (restricted.allowed, restricted.policy_id, restricted.severity) == (
        False,
        "data-classification",
        "critical",
    )
    elsewhere = policies.decide(Question(residency="eu", region="us", clearance=1))
    assert (elsewhere.allowed, elsewhere.policy_id) == (False, "data-residency")
    assert [policy_error(rule.text) for rule in load_rules()] == ["", ""]


def test_the_default_rules_never_overwrite_what_an_operator_changed() -> None:
    add_defaults()
    Policy.objects.filter(id="data-residency").update(enabled=False, description="Ours.")
    add_defaults()
    assert Policy.objects.count() == 2
    assert Policy.objects.get(id="data-residency").description == "Ours."


def test_only_enabled_policies_are_rules() -> None:
    Policy.objects.all().delete()
    text = "forbid (principal, action, resource);"
    for id_, enabled in (("b", True), ("a", True), ("c", False)):
        Policy.objects.create(id=id_, text=text, description=f"{id_}!", enabled=enabled, fail_mode="open")
    rules = load_rules()
    assert [(rule.id, rule.description, rule.severity, rule.fail_mode) for rule in rules] == [
        ("a", "a!", "warning", "open"),
        ("b", "b!", "warning", "open"),
    ]


def test_violations_are_kept_once_and_only_of_what_is_known() -> None:
    common = {"policy_id": "p", "severity": "warning", "reason": "r", "timestamp": clock.now()}
    consumer, service = make_consumer(), make_service()

    def violation(**changes: uuid.UUID) -> PolicyViolation:
        ids = {"consumer_id": consumer.id, "service_id": service.id, **changes}
        return PolicyViolation(id=uuid.uuid4(), request_id=uuid.uuid4(), **common, **ids)

    known = violation()
    strange = [violation(consumer_id=uuid.uuid4()), violation(service_id=uuid.uuid4())]
    keep_violations([])
    keep_violations([known, *strange])
    keep_violations([known])
    assert list(PolicyViolation.objects.values_list("id", flat=True)) == [known.id]
