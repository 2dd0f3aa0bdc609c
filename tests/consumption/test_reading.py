"""Quota and usage as a consumer reads them."""

import datetime as dt
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from unittest.mock import ANY

import pytest
import redis
from django.conf import settings

from accounts.models import ConsumerBudget
from catalog.models import Entitlement, Service, Tier
from common import clock
from consumption import quota_reading
from keys.models import ApiKey
from metering import shards
from metering.models import QuotaPeriod
from tests.api import anonymous, exact, refusal, signed_in, with_key
from tests.factories import make_consumer, make_entitlement, make_key, make_member, make_service, make_tier
from tests.rollups import make_rollup

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]


def quota(service_id: object) -> str:
    return f"/api/v1/quota/{service_id}"


def usage(service_id: object) -> str:
    return f"/api/v1/usage/{service_id}"


def count(key: ApiKey, used: int, reserved: int = 0) -> None:
    """Set the live counter of this month, as admission and settlement keep it."""
    assert key.service_id is not None
    month = clock.month_of(clock.now())
    name = shards.quota_key(shards.shard_of(key.consumer_id), key.consumer_id, key.service_id, month)
    redis.Redis.from_url(settings.REDIS_URL).hset(name, mapping={"used": used, "reserved": reserved})


def in_ledger(key: ApiKey, month: dt.date, used: int) -> None:
    assert key.service is not None
    QuotaPeriod.objects.create(consumer=key.consumer, service=key.service, month=month, used=used)


def next_month() -> str:
    return f"{clock.next_month(clock.month_of(clock.now()))}T00:00:00Z"


@pytest.fixture
def valkey_away(settings: Any) -> Iterator[None]:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    quota_reading._valkey.cache_clear()
    yield
    quota_reading._valkey.cache_clear()


def test_the_quota_has_the_fields_of_the_contract_and_the_other_limits() -> None:
    key, text = make_key(tier="premium")
    count(key, 5_234_567, reserved=1_000)
    expected = {
        "service_id": str(key.service_id),
        "consumer_id": str(key.consumer_id),
        "tier": "premium",
        "used_tokens": 5_234_567,
        "total_tokens": 10_000_000,
        "remaining_tokens": 4_765_433,
        "reset_at": next_month(),
        "exceeded": False,
        "reserved_tokens": 1_000,
        "limits": [
            {
                "name": "requests_per_second", "scope": "service", "limit": 100, "used": 0, "reserved": 0,
                "currency": None, "soft": False,
            }
        ],
    }  # fmt: skip
    for client in (with_key(text), signed_in(make_member(key.consumer).user)):
        response = client.get(quota(key.service_id))
        assert response.status_code == 200
        answer = response.json()
        assert answer["limits"][0].pop("reset_at")
        assert answer == expected


def test_every_limit_of_tier_key_and_consumer_is_told_from_live_counters() -> None:
    """One call is let in as a gateway lets it in, at a fifth of a cent at most; a person is not told of the key's."""
    key, text = make_key(tier="basic", concurrent_requests=4, tokens_per_month=1_000)
    Tier.objects.filter(name="basic").update(
        tokens_per_minute=6_000, budget_amount="5", budget_currency="USD", budget_period="day"
    )
    for currency, soft in (("USD", True), ("EUR", False)):
        ConsumerBudget.objects.create(
            consumer=key.consumer, amount="10", currency=currency, period="month", soft=soft
        )
    valkey = redis.Redis.from_url(settings.REDIS_URL)
    shard, now = shards.shard_of(key.consumer_id), clock.now()
    at = int(now.timestamp() * 1000)
    valkey.hset(
        shards.now_key(shard, key.consumer_id),
        mapping={
            f"c:{key.lineage}": 3, f"p:{key.service_id}": 3_000, f"p:{key.service_id}:at": at,
        },
    )  # fmt: skip
    month = shards.spent_key(shard, key.consumer_id, f"{now:%Y%m}")
    valkey.hset(
        month,
        mapping={
            f"t:{key.lineage}": 40,
            f"rt:{key.lineage}": 100,
            "m:USD": 12_500_000_000,
            "rm:USD": 5 * 10**8,
        },
    )
    day = shards.spent_key(shard, key.consumer_id, f"{now:%Y%m%d}")
    valkey.hset(day, f"m:USD:{key.service_id}", 1)

    told = with_key(text).get(quota(key.service_id)).json()["limits"]

    minute = next(limit for limit in told if limit["name"] == "tokens_per_minute")
    assert 2_000 <= minute.pop("used") <= 3_000  # it fills while this is read
    full = dt.datetime.fromisoformat(minute.pop("reset_at"))
    assert dt.timedelta(seconds=28) < full - now < dt.timedelta(seconds=32)
    tomorrow = f"{now + dt.timedelta(days=1):%Y-%m-%d}T00:00:00Z"
    rows = [
        ("requests_per_second", "service", 10, 0, 0, ANY, None, False),
        ("concurrent_requests", "key", 4, 3, 0, None, None, False),
        ("tokens_per_minute", "service", 6_000, ANY, 0, ANY, None, False),
        ("tokens_per_month", "key", 1_000, 40, 100, next_month(), None, False),
        ("budget_per_month", "consumer", "10", "12.5", "0.5", next_month(), "USD", True),
        ("budget_per_day", "service", "5", "0.000000001", "0", tomorrow, "USD", False),
    ]
    names = ("name", "scope", "limit", "used", "reserved", "reset_at", "currency", "soft")
    assert [
        limit | {"used": limit.get("used", ANY), "reset_at": limit.get("reset_at", ANY)} for limit in told
    ] == [dict(zip(names, row, strict=True)) for row in rows]
    person = signed_in(make_member(key.consumer).user).get(quota(key.service_id)).json()["limits"]
    assert [limit["scope"] for limit in person] == ["service", "service", "consumer", "service"]


@pytest.mark.parametrize(
    ("limit", "used", "remaining", "exceeded"),
    [
        (100, 0, 100, False),
        (100, 99, 1, False),
        (100, 100, 0, True),
        (100, 130, 0, True),
        (0, 0, 0, True),
        (None, 10**12, None, False),
    ],
)
def test_a_quota_is_exceeded_when_nothing_remains(
    limit: int | None, used: int, remaining: int | None, exceeded: bool
) -> None:
    key, text = make_key(tier="basic")
    Tier.objects.filter(name="basic").update(tokens_per_month=limit)
    count(key, used)
    answer = with_key(text).get(quota(key.service_id)).json()
    assert (answer["total_tokens"], answer["used_tokens"]) == (limit, used)
    assert (answer["remaining_tokens"], answer["exceeded"]) == (remaining, exceeded)


def test_a_key_reads_the_limit_of_its_own_tier_and_a_person_that_of_the_entitlement() -> None:
    key, text = make_key(tier="basic", entitled=False)
    make_entitlement(key.consumer, key.service, tier="premium")
    person = signed_in(make_member(key.consumer).user)
    assert with_key(text).get(quota(key.service_id)).json()["total_tokens"] == 100_000
    assert person.get(quota(key.service_id)).json()["total_tokens"] == 10_000_000


def test_what_the_entitlement_sets_holds_and_is_no_way_past_a_lower_tier_of_a_key() -> None:
    consumer, service = make_consumer(), make_service()
    Entitlement.objects.create(
        consumer=consumer, service=service, tier=make_tier("premium"), tokens_per_month=20_000_000
    )
    person = signed_in(make_member(consumer).user)
    of_the_tier, lower = (make_key(consumer, service, tier=tier)[1] for tier in ("premium", "basic"))
    asked = (person, with_key(of_the_tier), with_key(lower))
    assert [each.get(quota(service.id)).json()["total_tokens"] for each in asked] == [20_000_000] * 2 + [
        100_000
    ]
    Entitlement.objects.update(tokens_per_month=50_000)
    assert [each.get(quota(service.id)).json()["total_tokens"] for each in asked] == [50_000] * 3
    listed = person.get(f"/api/v1/services/{service.id}").json()["limits"]
    assert listed == {"tier": "premium", "requests_per_second": 100, "tokens_per_month": 50_000}


def test_without_a_counter_the_ledger_answers() -> None:
    key, text = make_key(tier="basic")
    assert with_key(text).get(quota(key.service_id)).json()["used_tokens"] == 0
    month = clock.month_of(clock.now())
    in_ledger(key, month, 40_000)
    in_ledger(key, month - dt.timedelta(days=31), 7)
    assert with_key(text).get(quota(key.service_id)).json()["used_tokens"] == 40_000


def test_without_valkey_the_ledger_answers(valkey_away: None) -> None:
    key, text = make_key(tier="basic")
    month = clock.month_of(clock.now())
    in_ledger(key, month, 100_000)
    answer = with_key(text).get(quota(key.service_id)).json()
    assert (answer["used_tokens"], answer["remaining_tokens"], answer["exceeded"]) == (100_000, 0, True)


def roll_up(key: ApiKey, hour: dt.datetime, **sums: Any) -> None:
    assert key.service is not None
    make_rollup(
        hour,
        consumer=key.consumer,
        service=key.service,
        api_key=key,
        price_version=key.service.price_versions.get(),
        tier=key.tier,
        **{"status": "success", "currency": "USD", **sums},
    )


def midnight(days_ago: int = 0) -> dt.datetime:
    return clock.now().replace(hour=0, minute=0, second=0, microsecond=0) - dt.timedelta(days=days_ago)


def test_usage_has_exactly_the_fields_of_the_contract_and_rounds_money_half_up() -> None:
    key, text = make_key()
    roll_up(
        key,
        midnight(),
        requests=900,
        duration_ms=83_250,
        total_tokens=3_821_450,
        cost_amount=Decimal("382.145"),
    )
    roll_up(key, midnight(29), status="error", requests=100, duration_ms=9_250)
    roll_up(key, midnight(30), requests=5, total_tokens=5, cost_amount=Decimal(5))

    response = with_key(text).get(usage(key.service_id))

    assert response.status_code == 200
    assert exact(response) == {
        "service_id": str(key.service_id),
        "consumer_id": str(key.consumer_id),
        "period_start": f"{midnight(29):%Y-%m-%d}T00:00:00Z",
        "period_end": f"{midnight(-1):%Y-%m-%d}T00:00:00Z",
        "total_requests": 1_000,
        "total_tokens": 3_821_450,
        "total_cost": Decimal("382.15"),
        "avg_latency_ms": Decimal("92.5"),
        "error_rate": Decimal("0.1"),
    }
    assert b'"total_cost":382.15' in response.content


def test_usage_is_zero_where_nothing_was_used() -> None:
    key, text = make_key()
    answer = exact(with_key(text).get(usage(key.service_id)))
    names = ("total_requests", "total_tokens", "total_cost", "avg_latency_ms", "error_rate")
    assert [answer[name] for name in names] == [0, 0, 0, 0, 0]


def test_usage_of_others_is_never_counted() -> None:
    key, text = make_key()
    others, _ = make_key(make_consumer(), key.service)
    elsewhere, _ = make_key(key.consumer)
    roll_up(others, midnight(), requests=3)
    roll_up(elsewhere, midnight(), requests=4)
    roll_up(key, midnight(), requests=5)
    assert with_key(text).get(usage(key.service_id)).json()["total_requests"] == 5


def test_the_period_has_as_many_days_as_were_asked_for() -> None:
    key, text = make_key()
    for days in (1, 30, 366):
        answer = with_key(text).get(usage(key.service_id), {"days": days}).json()
        assert answer["period_start"] == f"{midnight(days - 1):%Y-%m-%d}T00:00:00Z"


@pytest.mark.parametrize(
    "days", ["0", "-1", "367", "1.5", "x", "", " 1", "1_0", "\uff13", "1e2", "9" * 5000, "\0", "null"]
)
def test_days_outside_their_range_are_refused(days: str) -> None:
    key, text = make_key()
    response = with_key(text).get(usage(key.service_id), {"days": days})
    assert refusal(response) == (422, "invalid_field")
    assert response.json()["errors"] == [{"field": "days", "code": "out_of_range"}]


@pytest.mark.parametrize("url", [quota, usage])
class TestWhoMayRead:
    def test_nobody_without_credentials(self, url: Any) -> None:
        assert refusal(anonymous().get(url(make_service().id))) == (401, "credentials_missing")

    def test_no_key_that_is_bad(self, url: Any) -> None:
        key, text = make_key(revoked_at=clock.now())
        assert refusal(with_key(text).get(url(key.service_id))) == (403, "invalid_api_key")

    def test_no_key_of_another_service(self, url: Any) -> None:
        key, text = make_key()
        other = make_entitlement(key.consumer)
        assert refusal(with_key(text).get(url(other.service_id))) == (403, "access_denied")

    def test_no_caller_without_entitlement(self, url: Any) -> None:
        make_tier("basic")
        key, text = make_key(entitled=False)
        listed = make_service(status=Service.Status.SUSPENDED)
        assert refusal(with_key(text).get(url(key.service_id))) == (403, "access_denied")
        assert refusal(signed_in(make_member().user).get(url(listed.id))) == (403, "access_denied")

    def test_nothing_is_told_of_what_is_not_listed(self, url: Any) -> None:
        _, text = make_key()
        draft = make_service(status=Service.Status.DRAFT)
        answers = [with_key(text).get(url(id_)) for id_ in (draft.id, uuid.uuid4())]
        assert {refusal(answer) for answer in answers} == {(404, "service_not_found")}
        assert refusal(with_key(text).get(url("no-uuid"))) == (404, "not_found")

    def test_what_was_used_of_a_withdrawn_service_can_still_be_read(self, url: Any) -> None:
        key, text = make_key(service=make_service(status=Service.Status.INACTIVE))
        assert with_key(text).get(url(key.service_id)).status_code == 200

    def test_a_key_for_every_service(self, url: Any) -> None:
        entitled = make_entitlement()
        _, text = make_key(entitled.consumer, every_service=True)
        assert with_key(text).get(url(entitled.service_id)).status_code == 200
