"""Calls priced again: shown first, corrected once, whoever is killed or comes twice; closed months stay as they are."""

import datetime as dt
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from audit.models import AuditEntry
from catalog.models import PriceVersion
from common import clock
from common.ids import uuid7
from metering import repricing
from metering.models import ClosedMonth, DeadLetter, JournalBatch, UsageRecord, UsageRollup
from metering.repricing import Scope, compare, reprice
from tests import factories
from tests.metering.market import Market

BY_KIND = {
    "model": "per_token", "currency": "USD", "unit": 1000,
    "rates": {"prompt": "0.1", "completion": "0.2", "cached": "0.01", "audio_completion": "1"},
}  # fmt: skip


def today(**fields: Any) -> Scope:
    now = clock.now()
    return Scope(start=now - dt.timedelta(hours=1), end=now + dt.timedelta(hours=1), **fields)


def backdate(market: Market, pricing: dict[str, Any], minutes: int = 30) -> PriceVersion:
    """A price that should have held for half an hour, found out now."""
    return market.service.publish_price(pricing, clock.now() - dt.timedelta(minutes=minutes))


def corrections() -> list[tuple[uuid.UUID | None, Decimal]]:
    rows = UsageRecord.objects.filter(kind="correction").order_by("id")
    return [(row.corrects, row.cost_amount) for row in rows]


def printed(*options: str) -> str:
    out = StringIO()
    day = f"{clock.now():%Y-%m-%d}"
    call_command("reprice", f"--from={day}", f"--to={day}", *options, stdout=out)
    return out.getvalue()


def test_calls_are_corrected_by_the_difference_once(market: Market) -> None:
    cached = market.entry(cached_tokens=4, audio_completion_tokens=5)
    failed = market.entry(status="error", usage_source="none", prompt_tokens=0, completion_tokens=0, cost="0")
    market.write(cached, failed, market.unsettled())
    market.drain()
    assert reprice(today(), actor="x") == 0
    version = backdate(market, BY_KIND)

    assert reprice(today(), actor="somebody") == 1

    # 6 * 0.1 + 4 * 0.01 + 15 * 0.2 + 5 * 1, of a thousand, and 0.003 was charged
    assert corrections() == [(cached.request_id, Decimal("0.00564"))]
    row = UsageRecord.objects.get(kind="correction")
    assert (row.price_version_id, row.settlement, row.status, row.total_tokens) == (
        version.id,
        "repriced",
        "success",
        0,
    )
    assert (row.request_id, row.consumer_id, row.currency) == (
        cached.request_id,
        market.consumer.id,
        "USD",
    )
    assert market.record(cached).cost_amount == Decimal("0.003")
    rollup = UsageRollup.objects.get(kind="correction")
    assert (rollup.requests, rollup.charged, rollup.cost_amount) == (1, 0, Decimal("0.00564"))
    assert JournalBatch.objects.latest("id").record_ids == [row.id]
    told = AuditEntry.objects.get(action="usage_repriced")
    assert (told.actor, told.after["difference"]) == ("somebody", {"USD": "0.00564"})
    assert reprice(today(), actor="x") == 0
    market.assert_reconciled()


def test_a_price_found_wrong_again_corrects_from_where_the_last_one_left_off(market: Market) -> None:
    entry = market.entry()
    market.write(entry)
    market.drain()
    backdate(market, factories.PER_REQUEST)
    reprice(today(), actor="x")
    backdate(market, {**factories.PER_REQUEST, "rate_per_request": "0.001"}, minutes=20)

    assert reprice(today(), actor="x") == 1
    assert corrections() == [(entry.request_id, Decimal("0.007")), (entry.request_id, Decimal("-0.009"))]
    assert reprice(today(), actor="x") == 0


def test_a_drain_goes_on_after_it(market: Market) -> None:
    entry = market.entry()
    market.write(entry)
    market.drain()
    backdate(market, factories.PER_REQUEST)
    reprice(today(), actor="x")
    market.write(entry, market.entry())
    market.drain()
    assert (UsageRecord.objects.count(), DeadLetter.objects.count()) == (3, 0)
    numbers = list(
        JournalBatch.objects.filter(shard=market.shard).order_by("number").values_list("number", flat=True)
    )
    assert numbers == [1, 2, 3]
    market.assert_reconciled()


def test_only_what_is_asked_for(market: Market) -> None:
    market.write(market.entry())
    market.drain()
    backdate(market, factories.PER_REQUEST)
    stranger, other = factories.make_consumer(), factories.make_service()
    past = clock.now() - dt.timedelta(days=3)
    for scope in (
        today(consumer_id=stranger.id),
        today(service_id=other.id),
        Scope(start=past, end=past + dt.timedelta(days=1)),
    ):
        assert list(compare(scope)) == []
        assert reprice(scope, actor="x") == 0
    assert reprice(today(consumer_id=market.consumer.id, service_id=market.service.id), actor="x") == 1


def test_another_currency_is_left_alone_and_told_of(market: Market) -> None:
    market.write(market.entry())
    market.drain()
    backdate(market, {**factories.PER_TOKEN, "currency": "EUR"})
    [found] = compare(today())
    assert (found.should_cost is None, found.difference) == (True, Decimal(0))
    assert reprice(today(), actor="x") == 0
    assert "left alone" in printed("--dry-run")


STEPS = {
    "model": "per_token", "rate_per_token": [{"up_to": 10, "rate": "0.003"}, {"rate": "0.002"}], "tiers": "graduated",
    "currency": "USD",
}  # fmt: skip
PLAN = {"model": "subscription", "rate_per_token": "0.1", "fee_per_month": "20", "currency": "USD"}


@pytest.mark.parametrize(
    ("charged", "in_force"),
    [
        (factories.PER_TOKEN, STEPS),
        (STEPS, factories.PER_TOKEN),
        (factories.PER_TOKEN, {**factories.PER_TOKEN, "rate_per_token": "0.1", "minimum_per_month": "10"}),
        (factories.PER_TOKEN, {**PLAN, "fee_per_month": "0", "included": 1000}),
        (factories.PER_TOKEN, PLAN),
    ],
)
def test_where_the_month_decides_calls_are_left_alone_and_told_of(
    market: Market, charged: dict[str, Any], in_force: dict[str, Any]
) -> None:
    version = backdate(market, charged, minutes=30)
    market.write(market.entry(price_version_id=version.id))
    market.drain()
    backdate(market, in_force, minutes=20)
    assert reprice(today(), actor="x") == 0
    assert "the month decides what one of the prices comes to: left alone" in printed("--dry-run")


def test_calls_under_the_same_fee_are_corrected(market: Market) -> None:
    version = backdate(market, PLAN, minutes=30)
    market.write(market.entry(price_version_id=version.id, cost="3"))
    market.drain()
    backdate(market, {**PLAN, "rate_per_token": "0.2"}, minutes=20)
    assert reprice(today(), actor="x") == 1
    assert [cost for _, cost in corrections()] == [Decimal(3)]


def test_a_call_that_does_not_cost_what_its_own_price_says_is_corrected(market: Market) -> None:
    version = backdate(market, STEPS, minutes=30)
    market.write(market.entry(price_version_id=version.id, cost="0.08"))
    market.drain()
    assert reprice(today(), actor="x") == 1
    assert [cost for _, cost in corrections()] == [Decimal("0.01")]


def test_rows_of_closed_months_are_left_alone(market: Market) -> None:
    before = clock.month_start(market.month) - dt.timedelta(hours=1)
    version = market.service.publish_price(factories.PER_REQUEST, before - dt.timedelta(hours=1))
    market.write(market.entry(request_id=uuid7(int(before.timestamp() * 1000))))
    market.drain()
    scope = Scope(start=before - dt.timedelta(hours=1), end=before + dt.timedelta(minutes=30))
    assert [found.version_id for found in compare(scope)] == [version.id]
    ClosedMonth.objects.create(month=clock.month_of(before))

    assert list(compare(scope)) == []
    assert reprice(scope, actor="x") == 0
    assert corrections() == []


def test_a_month_that_closes_meanwhile_is_left_alone(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    before = clock.month_start(market.month) - dt.timedelta(hours=1)
    market.service.publish_price(factories.PER_REQUEST, before - dt.timedelta(hours=1))
    market.write(market.entry(request_id=uuid7(int(before.timestamp() * 1000))))
    market.drain()
    correct = repricing._correct

    def close_first(*args: Any) -> int:
        ClosedMonth.objects.create(month=clock.month_of(before))
        return correct(*args)

    monkeypatch.setattr(repricing, "_correct", close_first)
    scope = Scope(start=before - dt.timedelta(hours=1), end=before + dt.timedelta(minutes=30))
    assert reprice(scope, actor="x") == 0
    assert corrections() == []


def test_killed_half_way_it_goes_on_where_it_was(market: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    market.write(*[market.entry() for _ in range(5)])
    market.drain()
    backdate(market, factories.PER_REQUEST)
    monkeypatch.setattr(repricing, "PAGE", 2)
    tell, calls = repricing._tell_of, []

    def die_the_second_time(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        tell(*args)

    monkeypatch.setattr(repricing, "_tell_of", die_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        reprice(today(), actor="x")
    assert len(corrections()) == 2

    assert reprice(today(), actor="x") == 3
    assert {amount for _, amount in corrections()} == {Decimal("0.007")}
    assert len({of for of, _ in corrections()}) == 5
    market.assert_reconciled()


def test_two_at_once_correct_every_call_once(market: Market) -> None:
    market.write(*[market.entry() for _ in range(20)])
    market.drain()
    backdate(market, factories.PER_REQUEST)

    def run(_: int) -> int:
        try:
            return reprice(today(), actor="x")
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(run, range(4)))
    assert sum(written) == 20
    assert len({of for of, _ in corrections()}) == len(corrections()) == 20


def test_the_command_shows_a_table_and_with_dry_run_nothing_else(market: Market) -> None:
    market.write(market.entry(), market.entry())
    market.drain()
    version = backdate(market, factories.PER_REQUEST)

    table = printed("--dry-run").splitlines()
    assert [line.split() for line in table] == [
        ["service", "charged", "at", "in", "force", "calls", "cost", "should", "cost", "difference"],
        [str(market.service), str(market.price_version_id)[:8], str(version.id)[:8], "2", "0.006", "USD", "0.02", "USD",
         "0.014", "USD"],
        ["all", "2", "0.006", "USD", "0.02", "USD", "0.014", "USD"],
    ]  # fmt: skip
    assert corrections() == []

    assert printed(f"--service={market.service.id}").splitlines()[-1] == "2 corrections written."
    assert len(corrections()) == 2
    assert printed().splitlines()[1:] == ["all" + printed().splitlines()[1][3:], "0 corrections written."]


@pytest.mark.django_db
def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(CommandError, match="ends before"):
        call_command("reprice", "--from=2026-02-01", "--to=2026-01-01")
