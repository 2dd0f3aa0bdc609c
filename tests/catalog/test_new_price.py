"""A price entered field by field: it says the same as the JSON, is read back in words, and becomes a version."""

import datetime as dt
from typing import Any

import pytest
from django.test import Client

from audit.models import AuditEntry
from catalog.models import Service
from catalog.price_form import PriceForm, entered
from catalog.pricing_shapes import parse_pricing
from common import clock
from tests.console import console, operator
from tests.factories import PER_REQUEST, PER_TOKEN, SUBSCRIPTION, make_service

BY_KIND = {
    "counted": "kind", "currency": "eur", "unit": "1000000", "prompt": "3 up to 1000000, then 2.5", "completion": "15",
    "cached": "0.3", "tiers": "graduated", "minimum_per_month": "10",
}  # fmt: skip
BY_KIND_PRICE = {
    "model": "per_token", "currency": "EUR", "unit": 1_000_000, "tiers": "graduated", "minimum_per_month": "10",
    "rates": {
        "prompt": [{"up_to": 1_000_000, "rate": "3"}, {"rate": "2.5"}], "completion": "15", "cached": "0.3",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    "pricing",
    [
        PER_TOKEN,
        PER_REQUEST,
        SUBSCRIPTION,
        BY_KIND_PRICE,
        {
            "model": "per_token",
            "rate_per_token": "0.1",
            "unit": 1000,
            "currency": "USD",
            "minimum_per_month": 5,
        },
        {
            "model": "per_request",
            "rate_per_request": [{"up_to": 10, "rate": "0.2"}, {"up_to": 20, "rate": "0.1"}, {"rate": "0"}],
            "tiers": "volume",
            "currency": "USD",
        },
        {
            "model": "subscription",
            "fee_per_month": "20",
            "included": 1000,
            "rate_per_request": "0.01",
            "currency": "USD",
        },
    ],
)
def test_what_a_price_says_the_fields_say_too(pricing: dict[str, Any]) -> None:
    form = PriceForm(entered(pricing))

    assert form.is_valid(), form.errors
    assert parse_pricing(form.pricing()) == parse_pricing(pricing)


def test_what_is_included_by_kind_is_left_to_the_json() -> None:
    rates = {"prompt": "1", "completion": "1"}
    pricing = {"model": "subscription", "rates": rates, "included": {"prompt": 10}, "currency": "USD"}
    parse_pricing(pricing)

    assert entered(pricing) is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"counted": "token"}, "Say the rate"),
        ({"counted": "token", "rate": "x"}, "rate_per_token is not a decimal number"),
        ({"counted": "token", "rate": "-1"}, "rate_per_token must lie between 0 and 1000000000"),
        ({"completion": ""}, "rates must name prompt and completion"),
        ({"tiers": ""}, "tiers must be said where a rate has steps, and only there"),
        ({"prompt": "3 above 5, then 2"}, "Every step but the last says how far it goes"),
        ({"prompt": "3 up to 9, 2 up to 9, then 1"}, "each step of prompt must end above the one before"),
        ({"currency": "12"}, "currency must be a code of three capital letters (ISO 4217)"),
        ({"included": "5"}, "pricing may only hold"),
    ],
)
def test_what_is_no_price_is_refused_in_a_sentence(changed: dict[str, str], why: str) -> None:
    form = PriceForm(BY_KIND | changed)

    assert not form.is_valid()
    [[sentence]] = form.errors.get_json_data().values()
    assert sentence["message"].startswith(why)


@pytest.fixture
def service(db: None) -> Service:
    return make_service()


@pytest.fixture
def client(db: None) -> Client:
    return console(operator())


def page(service: Service) -> str:
    return f"/admin/catalog/service/{service.id}/price/"


def test_a_price_is_read_in_words_and_then_published(client: Client, service: Service) -> None:
    assert page(service) in client.get(f"/admin/catalog/service/{service.id}/change/").content.decode()
    assert "Now: 0.0001 USD per token" in client.get(page(service)).content.decode()

    read: Any = client.post(page(service), BY_KIND | {"read": "1"})
    words = (
        "prompt 0.000003 up to 1,000,000 a month, then 0.0000025, completion 0.000015, cached 0.0000003 EUR per token; "
        "at least 10 EUR per month"
    )
    assert read.context["words"] == words
    assert service.price_versions.count() == 1

    assert client.post(page(service), BY_KIND | {"publish": "1"}).status_code == 302
    newest = service.price_versions.order_by("-effective_from")[0]
    assert newest.pricing == BY_KIND_PRICE
    assert AuditEntry.objects.filter(action="price_published", target_id=service.id).count() == 1


def test_a_moment_that_another_price_begins_at_is_refused(client: Client, service: Service) -> None:
    moment = f"{clock.now() + dt.timedelta(days=1):%Y-%m-%d %H:%M:%S}"
    asked = BY_KIND | {"publish": "1", "price_from": moment}
    assert client.post(page(service), asked).status_code == 302

    again: Any = client.post(page(service), asked)

    assert again.status_code == 400
    assert again.context["form"].errors == {"price_from": ["Another price begins at that moment"]}
    assert service.price_versions.count() == 2


def test_where_prices_are_approved_it_waits(client: Client, service: Service, settings: Any) -> None:
    settings.PRICE_APPROVAL_REQUIRED = True
    client.post(page(service), BY_KIND | {"publish": "1"})

    assert service.price_versions.waiting().get().pricing == BY_KIND_PRICE


def test_who_may_not_change_services_gets_no_page(service: Service) -> None:
    assert console(operator("viewer")).get(page(service)).status_code == 403
    assert console(operator("viewer")).post(page(service), BY_KIND | {"publish": "1"}).status_code == 403
    assert service.price_versions.count() == 1
