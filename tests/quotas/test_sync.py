"""Live counters against the ledger: what is right stays, what is wrong twice is healed by the difference."""

import threading
from typing import Any

import pytest
from django.db import connection

from accounts.models import Consumer
from common import clock
from consumption import metrics
from consumption.gauges import observe_database
from metering import shards
from metering.models import DailyUsageRollup, QuotaPeriod, UsageRecord
from quotas import live_counters, sync
from quotas.live_counters import Counter, Drift
from quotas.models import QuotaDrift
from quotas.tasks import sync_quotas
from tests import factories
from tests.console import console, operator
from tests.metering.market import Market
from tests.metering.scripts import admit, counter, settle


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(sync, "PATIENCE", 1.0)


@pytest.fixture(autouse=True)
def nothing_of_others(market: Market) -> None:
    """Counters of other tests, whose rows are gone, would be drifts."""
    market.valkey.flushall()


@pytest.fixture
def used_market(market: Market) -> Market:
    """Three calls, settled and drained: 90 tokens."""
    market.drain()
    for _ in range(3):
        entry = market.entry()
        admit(market, entry)
        settle(market, entry)
    market.drain()
    return market


def test_counters_that_are_right_are_left_alone(used_market: Market) -> None:
    sync_quotas()

    assert counter(used_market) == {"used": 90, "reserved": 0}
    assert not QuotaDrift.objects.exists()


@pytest.mark.parametrize("wrong", [40, 90 + 7, 0])
def test_a_counter_that_is_wrong_is_healed_and_told_of(used_market: Market, wrong: int) -> None:
    used_market.valkey.hset(used_market.quota_key, "used", str(wrong))

    sync_quotas()

    assert counter(used_market) == {"used": 90, "reserved": 0}
    drift = QuotaDrift.objects.get()
    assert (drift.consumer_id, drift.service_id) == (used_market.consumer.id, used_market.service.id)
    assert (drift.month, drift.counter, drift.ledger, drift.healed) == (used_market.month, wrong, 90, True)
    sync_quotas()
    assert QuotaDrift.objects.count() == 1


def test_the_drift_of_a_consumer_that_is_gone_is_healed_and_shown_too(used_market: Market) -> None:
    """Quota periods refer to consumers loosely, and so do drifts."""
    gone = Market(
        Consumer(name="Gone"), used_market.service, used_market.key, used_market.valkey,
        used_market.price_version_id,
    )  # fmt: skip
    used_market.valkey.hset(gone.quota_key, "used", "30")

    sync_quotas()

    assert counter(gone)["used"] == 0
    assert QuotaDrift.objects.get().healed
    page = console(operator()).get("/admin/quotas/quotadrift/")
    assert (page.status_code, page.context["cl"].result_count) == (200, 1)


def test_a_book_that_is_wrong_by_itself_makes_no_counter_wrong(used_market: Market) -> None:
    """Which of the books is wrong, reconciliation tells."""
    UsageRecord.objects.filter(id=UsageRecord.objects.earliest("id").id).update(total_tokens=1)
    sync_quotas()
    assert not QuotaDrift.objects.exists()
    UsageRecord.objects.update(total_tokens=30)
    QuotaPeriod.objects.update(used=91)
    DailyUsageRollup.objects.update(total_tokens=91, cost_amount=1)

    sync_quotas()

    assert counter(used_market)["used"] == 90
    assert not QuotaDrift.objects.exists()


def test_metrics_tell_of_drifts(used_market: Market) -> None:
    used_market.valkey.hset(used_market.quota_key, "used", "40")
    sync_quotas()
    used_market.valkey.hset(used_market.quota_key, "used", "100")
    sync_quotas()

    observe_database()

    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
    }
    assert found["quota_drifts", "true"] == 2
    assert found["quota_drift_tokens", "true"] == 60
    assert found["quota_drifts", "false"] == found["quota_drift_tokens", "false"] == 0


def test_a_counter_that_was_lost_comes_back(used_market: Market) -> None:
    used_market.valkey.delete(used_market.quota_key)

    sync_quotas()

    assert counter(used_market) == {"used": 90}
    assert used_market.valkey.expiretime(used_market.quota_key) == shards.quota_expires(used_market.month)


@pytest.fixture
def spent(used_market: Market) -> dict[str, dict[str, int]]:
    """What the three calls spent, by month and by day, as Valkey has it."""
    return {period: _spent(used_market, period) for period in _periods(used_market)}


def _periods(market: Market) -> tuple[str, str]:
    return f"{market.month:%Y%m}", f"{clock.now():%Y%m%d}"


def _spent(market: Market, period: str) -> dict[str, int]:
    found: Any = market.valkey.hgetall(market.spent_key(period))
    return {name.decode(): int(value) for name, value in found.items()}


def test_what_was_spent_is_compared_field_by_field(
    used_market: Market, spent: dict[str, dict[str, int]]
) -> None:
    """Of consumer, key and service, by month and day; a budget would refuse or let in by each."""
    assert [len([name for name in fields if name[0] != "r"]) for fields in spent.values()] == [4, 3]
    sync_quotas()
    assert not QuotaDrift.objects.exists()
    for period, right in spent.items():
        for name in right:
            used_market.valkey.hset(used_market.spent_key(period), name, "5")
    sync_quotas()
    for period, right in spent.items():
        mended = {name: value if name[0] != "r" else 5 for name, value in right.items()}
        assert _spent(used_market, period) == mended
    key, service = used_market.key.lineage, used_market.service.id
    money = tuple(str({"cost": cost, "currency": "USD"}) for cost in ("0.000000005", "0.009"))
    of_all = {
        ("money", None, *money),
        ("money of the service", service, *money),
        (f"money of key {key}", None, *money),
    }
    found = {
        (drift.counted, drift.service_id, str(drift.told(drift.counter)), str(drift.told(drift.ledger)))
        for drift in QuotaDrift.objects.filter(healed=True)
    }
    assert found == of_all | {(f"{counted} of a day", *rest) for counted, *rest in of_all} | {
        (f"tokens of key {key}", None, str({"tokens": 5}), str({"tokens": 90}))
    }
    page = console(operator()).get("/admin/quotas/quotadrift/")
    assert b"0.000000005 USD" in page.content


def test_spent_counters_that_were_lost_come_back(
    used_market: Market, spent: dict[str, dict[str, int]]
) -> None:
    for period in spent:
        used_market.valkey.delete(used_market.spent_key(period))

    sync_quotas()

    month, day = _periods(used_market)
    assert {period: _spent(used_market, period) for period in spent} == {
        period: {name: value for name, value in fields.items() if name[0] != "r"}
        for period, fields in spent.items()
    }
    ends = [used_market.valkey.expiretime(used_market.spent_key(period)) for period in (month, day)]
    assert ends == [shards.quota_expires(used_market.month), shards.day_expires(clock.now().date())]


def test_money_that_is_rounded_up_call_by_call_is_no_drift(used_market: Market) -> None:
    for _ in range(3):
        entry = used_market.entry(cost="0.0000000001")
        admit(used_market, entry)
        settle(used_market, entry)
    used_market.drain()
    month, _ = _periods(used_market)
    assert _spent(used_market, month)["m:USD"] == 9_000_003

    sync_quotas()
    assert not QuotaDrift.objects.exists()
    used_market.valkey.hincrby(used_market.spent_key(month), "m:USD", 10)
    sync_quotas()

    drift = QuotaDrift.objects.get()
    assert (drift.counter, drift.ledger, _spent(used_market, month)["m:USD"]) == (
        9_000_013,
        9_000_007,
        9_000_007,
    )


def test_counters_that_the_ledger_knows_nothing_of_are_compared(used_market: Market) -> None:
    """Of nobody whose usage is in the ledger; and what only looks like a counter is left alone."""
    stranger, month = factories.make_consumer(), used_market.month
    shard = shards.shard_of(stranger.id)
    quota = shards.quota_key(shard, stranger.id, used_market.service.id, month)
    spent = shards.spent_key(shard, stranger.id, f"{month:%Y%m}")
    used_market.valkey.hset(quota, mapping={"used": 70, "reserved": 3})
    used_market.valkey.hset(
        spent, mapping={"m:USD": 8, f"t:{used_market.key.lineage}": "nonsense", "m:NOTHING:": 5}
    )
    used_market.valkey.hset(f"{quota}0", "used", 5)

    sync_quotas()

    assert used_market.valkey.hgetall(quota) == {b"used": b"0", b"reserved": b"0"}
    assert used_market.valkey.hget(spent, "m:USD") == b"0"
    assert used_market.valkey.hget(f"{quota}0", "used") == b"5"
    assert set(QuotaDrift.objects.values_list("consumer_id", "counter", "ledger")) == {
        (stranger.id, 70, 0), (stranger.id, 3, 0), (stranger.id, 8, 0),
    }  # fmt: skip
    used_market.valkey.delete(quota, spent, f"{quota}0")


def test_a_counter_that_is_no_number_becomes_one(used_market: Market) -> None:
    used_market.valkey.hset(used_market.quota_key, "used", "nonsense")

    sync_quotas()

    assert counter(used_market)["used"] == 90


def test_what_the_drain_has_not_passed_is_not_compared(used_market: Market) -> None:
    settle(used_market, used_market.entry())
    assert counter(used_market)["used"] == 120

    sync_quotas()

    assert counter(used_market)["used"] == 120
    assert not QuotaDrift.objects.exists()


def test_a_difference_that_passes_by_itself_is_not_healed(
    used_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_market.valkey.hset(used_market.quota_key, "used", "50")

    def mend(_: float) -> None:
        used_market.valkey.hset(used_market.quota_key, "used", "90")

    monkeypatch.setattr("quotas.sync.time.sleep", mend)

    sync_quotas()

    assert not QuotaDrift.objects.exists()


def test_a_shard_under_another_epoch_is_not_touched(
    used_market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_market.valkey.hset(used_market.quota_key, "used", "50")
    used_market.valkey.set(shards.epoch_key(used_market.shard), "9:other")

    sync_quotas()

    assert counter(used_market)["used"] == 50
    assert not QuotaDrift.objects.exists()


def test_only_what_both_looks_prove_is_healed(used_market: Market) -> None:
    counter = Counter(used_market.quota_key, "used")
    first, second = Drift(counter, "1:x", 50, 90), Drift(counter, "1:x", 70, 90)

    assert sync._smaller(first, second).by == 20


def test_counters_of_many_consumers_while_calls_go_on(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One counter is 1,000 tokens too low; all the others only move, and no drift is found in them."""
    monkeypatch.setattr(live_counters, "CHUNK", 2)
    monkeypatch.setattr(sync, "PATIENCE", 20.0)
    market.start_drain()
    consumers = [factories.make_consumer() for _ in range(5)]
    market.write(*[market.entry(consumer_id=consumer.id) for consumer in consumers], how="replay")
    market.write(market.entry(prompt_tokens=1_000), how="replay")
    market.wait_until_drained()
    market.valkey.hincrby(market.quota_key, "used", -1_000)
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            settle(market, market.entry())
        connection.close()

    caller = threading.Thread(target=call)
    caller.start()
    sync_quotas()
    stop.set()
    caller.join()
    market.wait_until_drained()
    sync_quotas()

    assert set(QuotaDrift.objects.values_list("consumer_id", "healed")) == {(market.consumer.id, True)}
    period = QuotaPeriod.objects.get(consumer_id=market.consumer.id)
    assert counter(market)["used"] == period.used
    market.assert_reconciled()
