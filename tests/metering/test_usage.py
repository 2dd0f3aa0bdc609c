"""Usage over whole UTC days, to the last digit."""

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest

from catalog.models import Service
from common import clock
from metering.usage import usage_statistics
from tests.factories import make_service
from tests.rollups import make_rollup

CONSUMER, SERVICE = uuid.uuid4(), uuid.uuid4()
NOW = dt.datetime(2026, 3, 15, 13, 30, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: NOW)


def rollup(hour: dt.datetime, status: str = "success", **fields: Any) -> None:
    service_id = fields.setdefault("service_id", SERVICE)
    if not Service.objects.filter(id=service_id).exists():
        make_service(id=service_id)
    defaults: dict[str, Any] = {
        "consumer_id": CONSUMER,
        "api_key_id": uuid.uuid4(),
        "price_version_id": uuid.uuid4(),
        "tier_id": "basic",
        "currency": "USD",
        "requests": 1,
    }
    make_rollup(hour, status=status, **(defaults | fields))


def hours_ago(hours: int) -> dt.datetime:
    return NOW.replace(minute=0) - dt.timedelta(hours=hours)


@pytest.mark.django_db
def test_sums_are_exact_and_leave_unsettled_out_of_the_ratios() -> None:
    rollup(hours_ago(0), requests=7, duration_ms=700, total_tokens=3_821_450, cost_amount=Decimal("382.145"))
    rollup(hours_ago(1), "error", requests=2, duration_ms=50, cost_amount=Decimal("0.000000000000000001"))
    rollup(hours_ago(1), "cancelled", requests=1, duration_ms=250, total_tokens=5)
    rollup(hours_ago(2), "unsettled", requests=10)
    rollup(hours_ago(0), requests=99, service_id=uuid.uuid4())
    rollup(hours_ago(0), requests=99, consumer_id=uuid.uuid4())

    found = usage_statistics(consumer_id=CONSUMER, service_id=SERVICE, days=1)

    assert (found.total_requests, found.total_tokens) == (20, 3_821_455)
    assert (found.total_cost, found.currency) == (Decimal("382.145000000000000001"), "USD")
    assert (found.avg_latency_ms, found.error_rate) == (100.0, 0.2)


@pytest.mark.django_db
@pytest.mark.parametrize(("days", "requests"), [(1, 1), (2, 12), (366, 12), (30, 12)])
def test_days_are_whole_utc_days_with_today(days: int, requests: int) -> None:
    midnight = dt.datetime(2026, 3, 15, tzinfo=dt.UTC)
    rollup(midnight, requests=1)
    rollup(midnight - dt.timedelta(hours=1), requests=1)
    rollup(midnight - dt.timedelta(hours=24), requests=10)
    rollup(midnight - dt.timedelta(days=366), requests=100)
    rollup(midnight + dt.timedelta(days=1), requests=1_000)

    found = usage_statistics(consumer_id=CONSUMER, service_id=SERVICE, days=days)

    assert found.total_requests == requests
    assert found.period_end == dt.datetime(2026, 3, 16, tzinfo=dt.UTC)
    assert found.period_start == found.period_end - dt.timedelta(days=days)


@pytest.mark.django_db
@pytest.mark.parametrize("unsettled", [0, 3])
def test_nothing_settled_gives_zeros(unsettled: int) -> None:
    if unsettled:
        rollup(hours_ago(0), "unsettled", requests=unsettled)

    found = usage_statistics(consumer_id=CONSUMER, service_id=SERVICE, days=30)

    assert (found.total_requests, found.total_tokens, found.total_cost) == (unsettled, 0, Decimal(0))
    assert (found.avg_latency_ms, found.error_rate) == (0.0, 0.0)
    assert found.currency == ("USD" if unsettled else None)


@pytest.mark.parametrize("days", [0, -1, 367])
def test_days_out_of_range_are_refused(days: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 366"):
        usage_statistics(consumer_id=CONSUMER, service_id=SERVICE, days=days)
