"""A consumer's month as the ledger and its rollups have it."""

import datetime as dt
from decimal import Decimal

import pytest

from common import clock
from common.ids import uuid7
from finance.charges import Category, total_of
from finance.consumer_months import charges_of, uses_of
from metering.corrections import Amounts, CorrectionRefused, correct
from tests import factories
from tests.metering.market import Market

RATES = {
    "model": "per_token", "rates": {"prompt": "100", "completion": "200", "cached": "10"}, "unit": 1_000_000,
    "currency": "USD",
}  # fmt: skip


def test_a_month_is_that_of_its_own_utc_days_and_of_its_own_consumer(market: Market) -> None:
    start = clock.month_start(market.month)
    month_before = clock.month_of(start - dt.timedelta(days=1))
    moments = [start - dt.timedelta(milliseconds=1), start, start + dt.timedelta(hours=1)]
    entries = [market.entry(request_id=uuid7(int(at.timestamp() * 1000))) for at in moments]
    market.write(
        *entries,
        market.entry(status="error", usage_source="none", prompt_tokens=0, completion_tokens=0, cost="0"),
    )
    market.drain()

    [this], [before] = (
        charges_of(market.consumer.id, market.month),
        charges_of(market.consumer.id, month_before),
    )
    assert [(line.counted, line.quantity, line.rate) for line in this.lines] == [
        ("token", Decimal(60), Decimal("0.0001")),
        ("", Decimal(1), Decimal("0.004")),
    ]
    assert (this.total, before.total) == (Decimal("0.01"), Decimal("0.00"))
    assert charges_of(factories.make_consumer().id, market.month) == []


def test_every_price_version_has_lines_of_its_own(market: Market) -> None:
    version = market.service.publish_price(RATES)
    entries = [
        market.entry(),
        market.entry(price_version_id=version.id, cached_tokens=4, cost="0.00464"),
    ]
    market.write(*entries)
    market.drain()

    [found] = charges_of(market.consumer.id, market.month)
    assert [(line.price_version_id, line.counted, line.amount) for line in found.lines] == [
        (market.price_version_id, "token", Decimal("0.003")),
        (version.id, "cached", Decimal("0.00004")),
        (version.id, "prompt", Decimal("0.0006")),
        (version.id, "completion", Decimal("0.004")),
        (None, "", Decimal("0.00236")),
    ]
    [(_, uses)] = uses_of(market.month, service_id=market.service.id)
    assert [use.requests for use in uses] == [1, 1]


def test_a_correction_is_a_line_of_the_month_that_it_was_made_in(market: Market) -> None:
    entry = market.entry()
    market.write(entry)
    market.drain()
    amounts = Amounts(prompt_tokens=-10, cost=Decimal("-1.5"))
    with pytest.raises(CorrectionRefused):
        correct(market.record(entry), amounts, note="too much", actor="x")
    correct(market.record(entry), Amounts(prompt_tokens=-10, cost=Decimal("-0.0025")), note="less", actor="x")

    [found] = charges_of(market.consumer.id, market.month)
    assert [(line.category, line.counted, line.amount) for line in found.lines] == [
        (Category.USAGE, "token", Decimal("0.003")),
        (Category.CORRECTION, "token", Decimal("-0.001")),
        (Category.CORRECTION, "", Decimal("-0.0015")),
        (Category.ROUNDING, "", Decimal("-0.0005")),
    ]
    assert total_of(found.lines) == Decimal("0.00") == found.total
