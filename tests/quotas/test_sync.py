"""Live counters against the ledger: what is right stays, what is wrong twice is healed by the difference."""

import threading

import pytest
from django.db import connection

from accounts.models import Consumer
from consumption import metrics
from consumption.gauges import observe_database
from metering import shards
from metering.models import QuotaPeriod
from quotas import sync
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
    period = QuotaPeriod.objects.create(
        consumer_id=gone.consumer.id, service=gone.service, month=gone.month, used=30
    )

    sync_quotas()

    assert counter(gone)["used"] == 30
    assert QuotaDrift.objects.get().healed
    page = console(operator()).get("/admin/quotas/quotadrift/")
    assert (page.status_code, page.context["cl"].result_count) == (200, 1)
    QuotaPeriod.objects.filter(id=period.id).delete()


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
    first = sync.Drift(_counter(used_market), "1:x", 50, 90, 40)
    second = sync.Drift(_counter(used_market), "1:x", 70, 90, 20)

    assert sync._smaller(first, second).by == 20


def _counter(market: Market) -> sync.Counter:
    return sync.Counter(market.shard, market.consumer.id, market.service.id, market.month)


def test_counters_of_many_consumers_while_calls_go_on(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One counter is 1,000 tokens too low; all the others only move, and no drift is found in them."""
    monkeypatch.setattr(sync, "CHUNK", 2)
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
