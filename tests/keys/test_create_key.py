"""``manage.py create_key``: a key for a consumer, with the entitlement that it needs."""

import json
import uuid
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from audit.models import AuditEntry
from catalog.models import Entitlement, Service
from keys.authentication import grant_of
from keys.models import ApiKey
from tests.factories import make_consumer, make_entitlement, make_service, make_tier

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _tiers() -> None:
    for name in ("basic", "premium", "enterprise"):
        make_tier(name)


def create_key(consumer: object, service: object, tier: str = "premium", *more: str) -> None:
    call_command("create_key", f"--consumer={consumer}", f"--service={service}", f"--tier={tier}", *more)


def told() -> list[str]:
    return list(AuditEntry.objects.order_by("id").values_list("action", flat=True))


def test_it_entitles_and_prints_a_key_that_works(capsys: pytest.CaptureFixture[str]) -> None:
    consumer, service = make_consumer(), make_service()
    create_key(consumer.id, service.id, "premium", "--name=ops", "--expires-in-days=7")
    printed = capsys.readouterr().out
    key = ApiKey.objects.get()
    answer = json.loads(printed)
    assert set(answer) == {"id", "key"}
    assert answer["id"] == str(key.id)
    assert printed.count("\n") == 1
    grant = grant_of(answer["key"], None)
    assert (grant.consumer_id, grant.service_id, grant.tier) == (consumer.id, service.id, "premium")
    assert grant.reaches(service.id)
    assert key.name == "ops"
    assert key.expires_at is not None
    assert Entitlement.objects.get().tier_id == "premium"
    assert told() == ["entitlement_created", "api_key_created"]


@pytest.mark.parametrize(
    ("before", "after", "entries"),
    [
        ("basic", "premium", ["entitlement_changed", "api_key_created"]),
        ("premium", "premium", ["api_key_created"]),
        ("enterprise", "enterprise", ["api_key_created"]),
    ],
)
def test_an_entitlement_is_raised_and_never_lowered(before: str, after: str, entries: list[str]) -> None:
    entitled = make_entitlement(tier=before)
    create_key(entitled.consumer_id, entitled.service_id)
    assert Entitlement.objects.get().tier_id == after
    assert told() == entries
    assert ApiKey.objects.get().tier_id == "premium"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"consumer": uuid.uuid4()}, "No such consumer"),
        ({"service": uuid.uuid4()}, "No such service"),
        ({"tier": "gold"}, "No such tier: there are basic, premium, enterprise"),
        ({"more": "--expires-in-days=0"}, "--expires-in-days must be from 1 to 3650"),
    ],
)
def test_what_is_not_there_is_said_in_one_line_and_nothing_is_made(
    changed: dict[str, Any], said: str
) -> None:
    options: dict[str, Any] = {"consumer": make_consumer().id, "service": make_service().id, "tier": "basic"}
    options |= changed
    more = (options.pop("more"),) if "more" in options else ()
    with pytest.raises(CommandError) as refused:
        create_key(options["consumer"], options["service"], options["tier"], *more)
    assert str(refused.value) == said
    assert not ApiKey.objects.exists()
    assert not Entitlement.objects.exists()
    assert told() == []


def test_a_draft_gets_no_key() -> None:
    with pytest.raises(CommandError, match="No such service"):
        create_key(make_consumer().id, make_service(status=Service.Status.DRAFT).id)
