"""What a consumer may call, at which price and within which limits."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest

from catalog.models import Service, Tier
from common import clock
from tests.api import anonymous, exact, refusal, signed_in, with_key
from tests.factories import (
    PER_REQUEST,
    SUBSCRIPTION,
    make_consumer,
    make_entitlement,
    make_key,
    make_member,
    make_service,
)

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

SERVICES = "/api/v1/services"


def test_a_member_sees_what_the_consumer_is_entitled_to() -> None:
    service = make_service("alpha", region="eu", sla={"latency_p95_ms": 2000}, default_max_tokens=256)
    entitled = make_entitlement(service=service, tier="premium")
    make_entitlement(service=make_service("of-others"))
    make_service("of-nobody")

    response = signed_in(make_member(entitled.consumer).user).get(SERVICES)

    assert response.status_code == 200
    assert exact(response) == {
        "next": None,
        "previous": None,
        "results": [
            {
                "id": str(service.id),
                "name": "alpha",
                "version": "1.0",
                "status": "active",
                "region": "eu",
                "pricing": {"model": "per_token", "currency": "USD", "rate_per_token": Decimal("0.0001")},
                "sla": {"latency_p95_ms": Decimal(2000)},
                "limits": {"tier": "premium", "requests_per_second": 100, "tokens_per_month": 10_000_000},
                "default_max_tokens": 256,
                "outage_mode": "closed",
            }
        ],
    }
    assert b'"rate_per_token":0.0001,' in response.content or b'"rate_per_token":0.0001}' in response.content


@pytest.mark.parametrize(
    ("pricing", "shown"),
    [
        (PER_REQUEST, b'{"model":"per_request","currency":"USD","rate_per_request":0.01}'),
        (SUBSCRIPTION, b'{"model":"subscription","currency":"USD"}'),
        (
            {"model": "per_token", "currency": "JPY", "rates": {"prompt": "1e-7", "completion": "1e-18"}},
            b'{"model":"per_token","currency":"JPY","rates":{"prompt":0.0000001,"completion":0.000000000000000001}}',
        ),
        (
            {"model": "per_token", "rate_per_token": "123456789.123456789012345678", "currency": "EUR"},
            b'{"model":"per_token","currency":"EUR","rate_per_token":123456789.123456789012345678}',
        ),
    ],
)
def test_a_price_is_told_exactly(pricing: dict[str, Any], shown: bytes) -> None:
    entitled = make_entitlement(service=make_service(pricing=pricing))
    response = signed_in(make_member(entitled.consumer).user).get(f"{SERVICES}/{entitled.service_id}")
    assert b'"pricing":' + shown + b"," in response.content


def test_the_price_is_the_one_in_force_and_not_one_to_come() -> None:
    entitled = make_entitlement()
    entitled.service.publish_price(PER_REQUEST, clock.now() + dt.timedelta(days=1))
    client = signed_in(make_member(entitled.consumer).user)
    assert client.get(f"{SERVICES}/{entitled.service_id}").json()["pricing"]["model"] == "per_token"

    unpriced = make_entitlement(
        entitled.consumer, make_service(price_from=clock.now() + dt.timedelta(days=1))
    )
    assert client.get(f"{SERVICES}/{unpriced.service_id}").json()["pricing"] is None


def test_unlimited_is_null_and_forbidden_is_zero() -> None:
    entitled = make_entitlement(tier="basic")
    Tier.objects.filter(name="basic").update(requests_per_second=None, tokens_per_month=0)
    response = signed_in(make_member(entitled.consumer).user).get(f"{SERVICES}/{entitled.service_id}")
    assert response.json()["limits"] == {"tier": "basic", "requests_per_second": None, "tokens_per_month": 0}


def test_a_key_for_one_service_sees_that_one_at_its_own_tier() -> None:
    key, text = make_key(tier="basic", entitled=False)
    make_entitlement(key.consumer, key.service, tier="enterprise")
    other = make_entitlement(key.consumer, tier="enterprise")

    seen = with_key(text).get(SERVICES).json()["results"]
    assert [(row["id"], row["limits"]["tier"]) for row in seen] == [(str(key.service_id), "basic")]
    assert with_key(text).get(f"{SERVICES}/{key.service_id}").json()["limits"]["tokens_per_month"] == 100_000
    assert refusal(with_key(text).get(f"{SERVICES}/{other.service_id}")) == (403, "access_denied")


def test_a_key_for_every_service_sees_all_at_their_entitlements_tiers() -> None:
    consumer = make_consumer()
    make_entitlement(consumer, make_service("a"), tier="basic")
    make_entitlement(consumer, make_service("b"), tier="premium")
    _, text = make_key(consumer, every_service=True, tier="basic")
    seen = with_key(text).get(SERVICES).json()["results"]
    assert [(row["name"], row["limits"]["tier"]) for row in seen] == [("a", "basic"), ("b", "premium")]


@pytest.mark.parametrize("status", Service.Status.values)
def test_only_what_is_served_is_listed(status: str) -> None:
    entitled = make_entitlement(service=make_service(status=status))
    client = signed_in(make_member(entitled.consumer).user)
    served = status in {"active", "deprecated"}
    assert [row["status"] for row in client.get(SERVICES).json()["results"]] == ([status] if served else [])
    # A suspended service is still known of, so it is refused and not denied.
    status_code = 200 if served else 403 if status == "suspended" else 404
    assert client.get(f"{SERVICES}/{entitled.service_id}").status_code == status_code


def test_a_listed_service_without_entitlement_is_403_and_one_nobody_may_know_of_is_404() -> None:
    client = signed_in(make_member().user)
    assert refusal(client.get(f"{SERVICES}/{make_service().id}")) == (403, "access_denied")
    for id_ in (make_service(status="draft").id, uuid.uuid4()):
        assert refusal(client.get(f"{SERVICES}/{id_}")) == (404, "service_not_found")


def test_nobody_sees_services_without_credentials() -> None:
    assert refusal(anonymous().get(SERVICES)) == (401, "credentials_missing")
    assert refusal(anonymous().get(f"{SERVICES}/{make_service().id}")) == (401, "credentials_missing")


def test_a_list_goes_page_by_page() -> None:
    consumer = make_consumer()
    for name in ("c", "a", "b"):
        make_entitlement(consumer, make_service(name))
    client = signed_in(make_member(consumer).user)
    first = client.get(SERVICES, {"limit": 2}).json()
    second = client.get(first["next"]).json()
    assert [row["name"] for row in first["results"] + second["results"]] == ["a", "b", "c"]
    assert (second["next"], first["previous"]) == (None, None)
    assert refusal(client.get(SERVICES, {"cursor": "x"})) == (404, "not_found")
