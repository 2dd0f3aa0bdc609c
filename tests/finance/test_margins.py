"""Revenue and margin, exact, and honest about calls whose cost at the upstream nobody knows."""

import datetime as dt
from decimal import Decimal

from common import clock
from finance.margins import margins
from tests.metering.market import Market


def test_revenue_and_upstream_cost_by_service_and_day(market: Market) -> None:
    market.write(
        market.entry(cost="0.000000000000000007", upstream_cost="0.000000000000000002"),
        market.entry(cost="12345678901234567890.1", upstream_cost="0.1"),
        market.entry(status="error", usage_source="none", prompt_tokens=0, completion_tokens=0, cost="0"),
    )
    market.drain()
    today = clock.day_start(clock.now().date())

    [found] = margins(start=today, end=today + dt.timedelta(days=1), by=("service", "day"))

    assert found.key == (market.service.id, today)
    assert (found.requests, found.charged, found.known, found.is_whole) == (3, 2, 2, True)
    assert found.revenue == Decimal("12345678901234567890.100000000000000007")
    assert found.margin == Decimal("12345678901234567890.000000000000000005")
    assert margins(start=today - dt.timedelta(days=1), end=today, by=("consumer",)) == []


def test_a_call_whose_upstream_cost_is_not_known_is_told_of(market: Market) -> None:
    market.write(market.entry(upstream_cost="0.001"), market.entry())
    market.drain()
    month = clock.month_start(market.month)
    [found] = margins(start=month, end=month + dt.timedelta(days=31), by=("consumer", "month"))
    assert found.key == (market.consumer.id, month)
    assert (found.charged, found.known, found.is_whole) == (2, 1, False)
    assert (found.revenue, found.upstream, found.margin) == (
        Decimal("0.006"),
        Decimal("0.001"),
        Decimal("0.005"),
    )
