"""The tiers that every marketplace starts with."""

import importlib

import pytest
from django.apps import apps
from django.db import connection

from catalog.models import Tier

pytestmark = pytest.mark.django_db

default_tiers = importlib.import_module("catalog.migrations.0002_default_tiers")


def rows() -> list[tuple[str, int | None, int | None]]:
    return list(Tier.objects.values_list("name", "requests_per_second", "tokens_per_month"))


def test_a_new_marketplace_has_the_three_tiers_of_the_contract() -> None:
    with connection.schema_editor() as editor:
        default_tiers.create_tiers(apps, editor)
    assert rows() == [
        ("basic", 10, 100_000),
        ("premium", 100, 10_000_000),
        ("enterprise", 1_000, 1_000_000_000),
    ]


def test_the_migration_leaves_a_tier_that_an_operator_edited() -> None:
    with connection.schema_editor() as editor:
        default_tiers.create_tiers(apps, editor)
        Tier.objects.filter(name="basic").update(requests_per_second=7)
        default_tiers.create_tiers(apps, editor)
    assert rows()[0] == ("basic", 7, 100_000)
