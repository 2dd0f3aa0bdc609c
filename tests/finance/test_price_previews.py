"""What a month would have cost with another price."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import pytest

from accounts.models import Consumer
from catalog.models import PriceVersion
from catalog.pricing_shapes import parse_pricing
from common import clock
from common.ids import uuid7
from finance.price_previews import Preview, preview
from metering.corrections import Amounts, correct
from metering.models import UsageRollup
from tests import factories
from tests.console import console, operator
from tests.metering.market import Market

DRAFT = {
    "model": "subscription", "fee_per_month": "5", "included": {"prompt": 15}, "currency": "USD",
    "rates": {"prompt": "1", "completion": "2", "cached": "0.5"},
}  # fmt: skip


def seen(market: Market, pricing: dict[str, Any]) -> Preview:
    return preview(service_id=market.service.id, price=parse_pricing(pricing), month=market.month)


def test_all_calls_of_the_month_at_the_draft_whatever_their_version(market: Market) -> None:
    second = market.service.publish_price(factories.PER_REQUEST)
    other_key, _ = factories.make_key(factories.make_consumer("Zeta"), market.service)
    corrected = market.entry(cached_tokens=4)
    market.write(
        corrected,
        market.entry(price_version_id=second.id, cost="0.01"),
        market.entry(consumer_id=other_key.consumer_id, api_key_id=other_key.id),
    )
    market.drain()
    amounts = Amounts(cost=Decimal(7))
    correct(market.record(corrected), amounts, note="of something else", actor="x")
    before = PriceVersion.objects.count(), UsageRollup.objects.count()

    found = seen(market, DRAFT)

    # 20 prompt (4 cached) and 40 completion: 1 of 16 is beyond what is included; and 10 and 20.
    assert [(row.name, row.was, row.would_be) for row in found.consumers] == [
        (market.consumer.name, Decimal("0.013"), Decimal(5 + 1 + 80 + 2)),
        ("Zeta", Decimal("0.003"), Decimal(5 + 40)),
    ]
    assert (found.total.was, found.total.would_be, found.left_out) == (Decimal("0.016"), Decimal(133), 0)
    assert found.total.difference == Decimal("132.984")
    assert (PriceVersion.objects.count(), UsageRollup.objects.count()) == before
    assert seen(market, factories.PER_TOKEN).consumers[0].would_be == Decimal("0.006")


def test_another_currency_is_left_out_and_told_of(market: Market) -> None:
    market.write(market.entry())
    market.drain()
    found = seen(market, {**factories.PER_TOKEN, "currency": "EUR"})
    assert (list(found.consumers), found.left_out, found.currency) == ([], 1, "EUR")


@pytest.mark.parametrize(("role", "status"), [("finance", 200), ("viewer", 200), ("service_account", 403)])
def test_the_page_of_a_version_shows_last_month_and_any_draft(market: Market, role: str, status: int) -> None:
    last = clock.month_start(market.month) - dt.timedelta(days=3)
    market.write(market.entry(request_id=uuid7(int(last.timestamp() * 1000))))
    market.drain()
    Consumer.objects.filter(id=market.consumer.id).update(name="<b>Omega</b>")
    page = f"/admin/catalog/priceversion/{market.price_version_id}/preview/"
    client = console(operator(role))

    answer = client.get(page)
    assert answer.status_code == status
    if status != 200:
        return
    text = answer.content.decode()
    assert "&lt;b&gt;Omega" in text
    assert "<td>0.003</td><td>0.003</td><td>0</td>" in text
    asked = {"pricing": json.dumps(DRAFT), "month": f"{last:%Y-%m}"}
    assert "<td>0.003</td><td>45</td><td>44.997</td>" in client.get(page, asked).content.decode()
    refused = client.get(page, {**asked, "pricing": '{"model": "gift"}'})
    assert "three capital letters" in refused.content.decode()
    assert "too far away" in client.get(page, {**asked, "month": "9999-12"}).content.decode()
    assert page in client.get(page.replace("preview", "change")).content.decode()
    assert client.get(page.replace(str(market.price_version_id), str(uuid7()))).status_code == 404
