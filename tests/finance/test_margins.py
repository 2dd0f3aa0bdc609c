"""Revenue and margin, exact, and honest about calls whose cost at the upstream nobody knows."""

import datetime as dt
from decimal import Decimal

from accounts.models import Consumer
from common import clock
from finance.margin_pages import Row
from finance.margins import margins
from tests import factories
from tests.console import console, operator
from tests.metering.market import Market

PAGE = "/admin/metering/closedmonth/margins/"


def test_revenue_and_upstream_cost_by_service_and_day(market: Market) -> None:
    market.write(
        market.entry(cost="0.000000000000000007", upstream_cost="0.000000000000000002"),
        market.entry(cost="12345678901234567890.1", upstream_cost="0.1"),
        market.entry(status="error", usage_source="none", prompt_tokens=0, completion_tokens=0, cost="0"),
    )
    market.drain()
    today = clock.now().date()

    [found] = margins(first=today, last=today, by=("service", "day"))

    assert found.key == (market.service.id, today)
    assert (found.requests, found.charged, found.known, found.is_whole) == (3, 2, 2, True)
    assert found.revenue == Decimal("12345678901234567890.100000000000000007")
    assert found.margin == Decimal("12345678901234567890.000000000000000005")
    yesterday = today - dt.timedelta(days=1)
    assert margins(first=yesterday, last=yesterday, by=("consumer",)) == []


def test_a_call_whose_upstream_cost_is_not_known_is_told_of(market: Market) -> None:
    market.write(market.entry(upstream_cost="0.001"), market.entry())
    market.drain()
    [found] = margins(first=market.month, last=clock.now().date(), by=("consumer", "month"))
    assert found.key == (market.consumer.id, market.month)
    assert (found.charged, found.known, found.is_whole) == (2, 1, False)
    assert (found.revenue, found.upstream, found.margin) == (
        Decimal("0.006"),
        Decimal("0.001"),
        Decimal("0.005"),
    )


def test_the_page_shows_margins_by_service_and_consumer(market: Market) -> None:
    Consumer.objects.filter(id=market.consumer.id).update(name="<b>Omega</b>")
    other, _ = factories.make_key(factories.make_consumer("Zeta"), market.service)
    market.write(
        market.entry(upstream_cost="0.001"),
        market.entry(),
        market.entry(consumer_id=other.consumer_id, api_key_id=other.id, cost="0.01", upstream_cost="0.0125"),
    )
    market.drain()
    client = console(operator("viewer"))

    answer = client.get(PAGE, {"by": "both"})

    rows: list[Row] = answer.context["rows"]
    assert [(row.names[1], row.margin.margin, row.percent, row.unknown) for row in rows] == [
        ("Zeta", Decimal("-0.0025"), Decimal("-25.0"), 0),
        ("<b>Omega</b>", Decimal("0.005"), Decimal("83.3"), 1),
    ]
    [total] = answer.context["totals"]
    assert (total.margin.revenue, total.margin.upstream) == (Decimal("0.016"), Decimal("0.0135"))
    assert total.margin.margin == sum(row.margin.margin for row in rows)
    text = answer.content.decode()
    assert "&lt;b&gt;Omega" in text
    assert "1 calls unknown" in text
    assert client.get(PAGE, {"first": "2026-01-01", "last": "2027-06-01"}).status_code == 400
    empty = client.get(PAGE, {"first": "2020-01-01", "last": "2020-01-31"})
    assert "No usage" in empty.content.decode()
