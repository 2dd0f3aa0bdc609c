"""What a gateway holds of the catalogue: endpoints, deadlines and fallback of every offer."""

import uuid
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ValidationError
from django.db import connection
from django.test.utils import CaptureQueriesContext

from catalog import snapshot
from catalog.models import Endpoint, PriceVersion, Service
from common import clock
from tests.factories import make_endpoint, make_service

pytestmark = pytest.mark.django_db

SECRET = "planted-credential-4711"


def offer_of(service: Service) -> snapshot.Offer:
    return snapshot.load().offers[service.id]


def test_a_service_without_endpoints_is_at_its_own() -> None:
    service = make_service("alpha", endpoint="http://127.0.0.1:9/v1/")
    assert offer_of(service).endpoints == (
        snapshot.Endpoint(service.id, "http://127.0.0.1:9/v1", "openai", "alpha", 1, 0, None),
    )
    service.upstream_model = "big"
    service.save()
    assert offer_of(service).endpoints[0].model == "big"


def test_rows_rule_and_come_by_order_and_id() -> None:
    service = make_service("alpha", endpoint="http://127.0.0.1:9/v1", upstream_model="big")
    ids = [uuid.UUID(int=number) for number in range(1, 5)]
    make_endpoint(
        service, id=ids[0], order=1, base_url="http://127.0.0.1:1/v1/", protocol="anthropic", weight=7
    )
    make_endpoint(
        service, id=ids[2], base_url="http://127.0.0.1:3/v1", upstream_model="small", credential=SECRET
    )
    make_endpoint(service, id=ids[1], base_url="http://127.0.0.1:2/v1")
    make_endpoint(service, id=ids[3], enabled=False)
    make_endpoint()
    offer = offer_of(service)
    assert offer.endpoints == (
        snapshot.Endpoint(ids[1], "http://127.0.0.1:2/v1", "openai", "big", 1, 0, None),
        snapshot.Endpoint(ids[2], "http://127.0.0.1:3/v1", "openai", "small", 1, 0, SECRET),
        snapshot.Endpoint(ids[0], "http://127.0.0.1:1/v1", "anthropic", "big", 7, 1, None),
    )
    assert (offer.base_url, offer.model) == ("http://127.0.0.1:9/v1", "big")


def test_a_service_whose_every_endpoint_is_disabled_has_none() -> None:
    service = make_service()
    make_endpoint(service, enabled=False)
    assert offer_of(service).endpoints == ()


def test_no_text_of_an_offer_shows_a_credential() -> None:
    service = make_service()
    make_endpoint(service, credential=SECRET)
    offer = offer_of(service)
    assert offer.endpoints[0].credential == SECRET
    assert SECRET not in f"{offer} {offer!r} {offer.endpoints[0]!r} {snapshot.load()!r}"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"credential": b"garbage"}, "Unsealable"),
        ({"credential": Fernet(Fernet.generate_key()).encrypt(b"http://127.0.0.1:9 x")}, "Unsealable"),
        ({"base_url": "http://127.0.0.1:10/v1"}, "ForAnotherOrigin"),
        ({"base_url": "http://127.0.0.1:99999/v1"}, "ForAnotherOrigin"),
    ],
    ids=["garbage", "another key", "another origin", "no URL"],
)
def test_a_credential_that_cannot_be_sent_takes_its_endpoint_out_and_nothing_else(
    caplog: pytest.LogCaptureFixture, spoil: dict[str, Any], reason: str
) -> None:
    service, other = make_service("alpha"), make_service()
    good = make_endpoint(service)
    bad = make_endpoint(service, credential=SECRET)
    Endpoint.objects.filter(id=bad.id).update(**spoil)

    loaded = snapshot.load()
    assert [endpoint.id for endpoint in loaded.offers[service.id].endpoints] == [good.id]
    assert [endpoint.id for endpoint in loaded.offers[other.id].endpoints] == [other.id]
    assert caplog.messages == [f"endpoint {bad.id} of alpha@1.0 is not used: its credential is {reason}"]
    assert SECRET not in caplog.text


def test_a_price_that_cannot_be_read_takes_its_service_out_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An older price of the same service may not hold any more."""
    broken, whole = make_service(), make_service()
    now = clock.now()
    later = PriceVersion.objects.create(
        service=broken, pricing={"model": "per_word"}, effective_from=now, approved_at=now
    )
    endpoint = make_endpoint(whole)
    Endpoint.objects.filter(id=endpoint.id).update(cost_pricing={"model": "per_word"})

    offers = snapshot.load().offers

    assert (offers[broken.id].prices, len(offers[whole.id].prices)) == ((), 1)
    assert [each.cost for each in offers[whole.id].endpoints] == [None]
    assert str(later.id) in caplog.text
    assert str(endpoint.id) in caplog.text


def test_deadlines_and_fallback_are_the_services_own() -> None:
    fallback = make_service()
    plain, patient = make_service(), make_service(
        connect_seconds=1, first_byte_seconds=7, idle_seconds=2, least_bytes_per_second=None, on_client_gone="drain",
        tokenizer="split", fallback=fallback, outage_mode="local",
    )  # fmt: skip
    offers = snapshot.load().offers

    def told(service: Service) -> tuple[Any, ...]:
        offer = offers[service.id]
        return (
            offer.connect_seconds, offer.first_byte_seconds, offer.idle_seconds, offer.least_bytes_per_second,
            offer.on_client_gone, offer.tokenizer, offer.fallback_id, offer.local,
        )  # fmt: skip

    assert told(plain) == (5, None, 60, 1, "cancel", "", None, False)
    assert told(patient) == (1, 7, 2, None, "drain", "split", fallback.id, True)


@pytest.mark.parametrize("services", [1, 5])
def test_it_is_read_in_four_queries_whatever_its_size(services: int) -> None:
    for _ in range(services):
        service = make_service()
        make_endpoint(service, credential=SECRET)
        make_endpoint(service)
    with CaptureQueriesContext(connection) as queries:
        snapshot.load()
    assert len(queries) == 4


def test_a_name_means_what_the_key_can_reach() -> None:
    live = make_service("alpha", version="1")
    sandbox = make_service("alpha", version="2", testing=True)
    only = make_service("beta", testing=True)
    loaded = snapshot.load()
    assert [loaded.find("alpha", testing=testing) for testing in (False, True)] == [
        loaded.offers[live.id],
        loaded.offers[sandbox.id],
    ]
    for testing in (False, True):
        for service in (live, sandbox):
            found = loaded.find(f"alpha@{service.version}", testing=testing)
            assert found == loaded.find(str(service.id), testing=testing) == loaded.offers[service.id]
        assert loaded.find("beta", testing=testing) == loaded.offers[only.id]


def test_services_for_testing_and_others_do_not_stand_in_for_each_other() -> None:
    live, sandbox = make_service(), make_service(testing=True)
    live.fallback = sandbox
    with pytest.raises(ValidationError):
        live.full_clean()
    live.fallback = make_service()
    live.full_clean()
    live.save()
    live.fallback.testing = True
    with pytest.raises(ValidationError):
        live.fallback.full_clean()
