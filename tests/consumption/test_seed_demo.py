"""``manage.py seed_demo``: the sample marketplace, the same at every start."""

import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from accounts.models import Consumer, Membership, User
from catalog.models import Entitlement, PriceVersion, Service
from keys.authentication import grant_of
from keys.models import ApiKey
from tests.api import anonymous
from tests.factories import make_tier

pytestmark = pytest.mark.django_db

UPSTREAM = "http://127.0.0.1:8003/v1"


@pytest.fixture(autouse=True)
def _tiers() -> None:
    for name in ("basic", "premium", "enterprise"):
        make_tier(name)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "var" / "demo.json"


def seed(state: Path, capsys: pytest.CaptureFixture[str], upstream: str = UPSTREAM) -> dict[str, Any]:
    capsys.readouterr()
    call_command("seed_demo", f"--upstream={upstream}", f"--state={state}")
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    found: dict[str, Any] = json.loads(printed)
    return found


@pytest.mark.urls("config.urls")
def test_everything_it_tells_works(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = seed(state, capsys)

    assert list(told) == [
        "admin_user", "admin_password", "consumer_id", "consumer_user", "consumer_password", "api_key", "services",
    ]  # fmt: skip
    assert [(row["name"], row["pricing"]) for row in told["services"]] == [
        ("sample-chat", {"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"}),
        ("sample-premium", {"model": "per_request", "rate_per_request": "0.01", "currency": "USD"}),
    ]
    assert {service.endpoint for service in Service.objects.all()} == {UPSTREAM}
    assert Service.objects.get(name="sample-chat").sla["latency_p95_ms"] == 2000
    operator = User.objects.get(username=told["admin_user"])
    assert operator.is_staff
    assert operator.is_superuser
    assert operator.check_password(told["admin_password"])
    member = User.objects.get(username=told["consumer_user"])
    assert not member.is_staff
    grant = grant_of(told["api_key"], None)
    assert (str(grant.consumer_id), str(grant.service_id)) == (told["consumer_id"], told["services"][0]["id"])
    assert grant.tier == "enterprise"
    assert Membership.objects.get(user=member).role == "owner"
    credentials = {"username": told["consumer_user"], "password": told["consumer_password"]}
    signed = anonymous().post("/api/v1/token", credentials, format="json")
    assert [row["id"] for row in signed.json()["consumers"]] == [told["consumer_id"]]


def test_a_second_run_tells_the_same_and_makes_nothing(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = seed(state, capsys)
    made = [model.objects.count() for model in (User, Consumer, Service, PriceVersion, Entitlement, ApiKey)]
    assert seed(state, capsys) == first
    assert [
        model.objects.count() for model in (User, Consumer, Service, PriceVersion, Entitlement, ApiKey)
    ] == made
    assert made == [2, 1, 2, 2, 2, 1]


def test_the_upstream_may_move(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = seed(state, capsys)
    moved = seed(state, capsys, "http://127.0.0.1:9999/v1")
    assert moved == first
    assert {service.endpoint for service in Service.objects.all()} == {"http://127.0.0.1:9999/v1"}
    assert PriceVersion.objects.count() == 2


def test_what_it_told_is_kept_for_the_owner_alone_beside_what_others_wrote(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state.parent.mkdir()
    state.write_text('{"base_url": "http://127.0.0.1:8000"}')
    told = seed(state, capsys)
    assert state.stat().st_mode & 0o777 == 0o600
    assert json.loads(state.read_text()) == {"base_url": "http://127.0.0.1:8000", **told}
    assert list(state.parent.iterdir()) == [state]


@pytest.mark.parametrize(
    "left", [None, "", "[]", "{", '{"admin_password": 1, "api_key": [], "consumer_password": {}}']
)
def test_where_the_state_is_lost_there_are_new_secrets_and_the_old_key_ends(
    left: str | None, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = seed(state, capsys)
    state.unlink()
    if left is not None:
        state.write_text(left)
    second = seed(state, capsys)
    for secret in ("admin_password", "consumer_password", "api_key"):
        assert second[secret] != first[secret]
    same = ("admin_user", "consumer_id", "consumer_user", "services")
    assert [second[name] for name in same] == [first[name] for name in same]
    assert ApiKey.objects.filter(revoked_at=None).count() == 1
    assert not usable(first["api_key"])
    assert usable(second["api_key"])


def usable(text: str) -> bool:
    key = ApiKey.objects.get(last4=text[-4:])
    return key.usable()


def test_a_revoked_key_is_replaced_and_the_passwords_stay(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = seed(state, capsys)
    ApiKey.objects.update(revoked_at="2026-01-01T00:00:00Z")
    second = seed(state, capsys)
    assert second["api_key"] != first["api_key"]
    assert second["admin_password"] == first["admin_password"]


def test_an_endpoint_that_is_none_is_refused(state: Path) -> None:
    with pytest.raises(CommandError, match="The endpoint must look like"):
        call_command("seed_demo", "--upstream=nowhere", f"--state={state}")
    assert not User.objects.exists()
    assert not state.exists()


def test_a_state_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("seed_demo", f"--upstream={UPSTREAM}", f"--state={tmp_path / 'file' / 'demo.json'}")
