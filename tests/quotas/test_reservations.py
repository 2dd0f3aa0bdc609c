"""What is reserved against the open leases: what is right stays, what is wrong is healed by the difference."""

import threading
from typing import Any

import pytest
from django.db import connection

from common import clock
from metering import shards
from metering.journal import Entry
from quotas import reservations, sync
from quotas.limits import limit_set
from quotas.models import QuotaDrift
from quotas.tasks import sync_quotas
from tests.metering.market import Market
from tests.metering.scripts import admit, counter, settle, write_former_lease
from tests.quotas.limits import every_kind

Found = dict[tuple[str, str], int]


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "BETWEEN_LOOKS", 0.05)


@pytest.fixture
def drained(market: Market) -> Market:
    """Open, and empty: counters of other tests, whose rows are gone, would be drifts."""
    market.valkey.flushall()
    market.drain()
    return market


@pytest.fixture
def running(drained: Market) -> Entry:
    """A call that runs under a limit of every kind."""
    limits = every_kind(drained.service.id, drained.key.lineage)
    entry = drained.entry()
    admit(drained, entry, limits=limit_set(None, 1000, limits, (0, 1, 10)))
    return entry


def reserved(market: Market) -> Found:
    """By hash and field, as they are called here."""
    found: Found = {}
    for name in ("quota", "now", "month", "day"):
        fields: Any = market.valkey.hgetall(_key_of(market, name))
        for field, value in fields.items():
            text = field.decode().replace(str(market.key.lineage), "key")
            if text == "reserved" or text.startswith(("r", "c:")):
                found[name, text.replace(str(market.service.id), "service")] = int(value)
    return found


HELD: Found = {
    ("quota", "reserved"): 100,
    ("now", "c:service"): 1,
    ("now", "c:key"): 1,
    ("month", "rt:key"): 100,
    ("month", "rm:USD"): 910,
    ("day", "rm:USD:key"): 910,
    ("day", "rm:USD:service"): 910,
}
COUNTED = {
    ("reserved tokens", "service"),
    ("running calls of the service", "service"),
    ("running calls of key", ""),
    ("reserved tokens of key", ""),
    ("reserved money", ""),
    ("reserved money of key of a day", ""),
    ("reserved money of the service of a day", "service"),
}


def _key_of(market: Market, name: str) -> str:
    return {
        "quota": market.quota_key,
        "now": shards.now_key(market.shard, market.consumer.id),
        "month": market.spent_key(f"{market.month:%Y%m}"),
        "day": market.spent_key(f"{clock.now():%Y%m%d}"),
    }[name]


def _field_of(market: Market, text: str) -> str:
    return text.replace(":key", f":{market.key.lineage}").replace(":service", f":{market.service.id}")


def test_what_running_calls_hold_is_left_alone(drained: Market, running: Entry) -> None:
    assert reserved(drained) == HELD
    sync_quotas()
    settle(drained, running)
    drained.drain()
    sync_quotas()

    assert not QuotaDrift.objects.exists()
    assert set(reserved(drained).values()) == {0}


@pytest.mark.parametrize("wrong", ["too much", "too little", "nonsense", "lost"])
def test_what_is_reserved_by_no_call_goes_and_what_is_held_comes_back(
    wrong: str, drained: Market, running: Entry
) -> None:
    for (name, text), right in HELD.items():
        key, field = _key_of(drained, name), _field_of(drained, text)
        if wrong == "lost":
            drained.valkey.hdel(key, field)
        else:
            values = {"too much": right + 7, "too little": right - 1, "nonsense": "x"}
            drained.valkey.hset(key, field, str(values[wrong]))

    sync_quotas()

    assert reserved(drained) == HELD
    told = {
        (drift.counted.replace(f" {drained.key.lineage}", ""), "service" if drift.service_id else "")
        for drift in QuotaDrift.objects.filter(healed=True, consumer=drained.consumer)
    }
    assert told == COUNTED
    calls = QuotaDrift.objects.get(counted="running calls of the service")
    assert calls.told(calls.ledger) == {"calls": 1}
    sync_quotas()
    assert QuotaDrift.objects.count() == len(HELD)
    settle(drained, running)
    assert set(reserved(drained).values()) == {0}


def test_hashes_that_are_gone_altogether_come_back_and_end_when_they_would_have(
    drained: Market, running: Entry
) -> None:
    for name in ("quota", "now", "month", "day"):
        drained.valkey.delete(_key_of(drained, name))

    sync_quotas()

    assert reserved(drained) == HELD
    assert drained.valkey.expiretime(drained.quota_key) == shards.quota_expires(drained.month)
    assert drained.valkey.expiretime(_key_of(drained, "day")) == shards.day_expires(clock.now().date())
    assert 0 < drained.valkey.ttl(_key_of(drained, "now")) <= shards.NOW_KEPT.total_seconds()


def test_a_reservation_of_whoever_never_called_refuses_nobody_for_a_month(drained: Market) -> None:
    drained.valkey.hset(drained.quota_key, "reserved", "1000")
    assert admit(drained, drained.entry())[0] == b"reserved"

    sync_quotas()

    assert admit(drained, drained.entry())[0] == b"ok"


def test_a_shard_with_leases_of_former_versions_is_not_judged(drained: Market) -> None:
    write_former_lease(drained, drained.entry(), clock.now_ms() + 60_000)
    before = counter(drained)

    sync_quotas()

    assert (counter(drained), before["reserved"]) == (before, 100)
    assert not QuotaDrift.objects.exists()
    drained.valkey.flushall()


def test_sums_past_what_is_exact_are_not_judged(drained: Market, running: Entry) -> None:
    drained.valkey.hset(_key_of(drained, "month"), "rm:USD", str(2**53 + 1))

    sync_quotas()

    assert not QuotaDrift.objects.exists()


def test_what_is_no_counter_or_lease_of_ours_keeps_nothing_from_being_compared(
    drained: Market, running: Entry, caplog: pytest.LogCaptureFixture
) -> None:
    now = _key_of(drained, "now")
    drained.valkey.hset(now, mapping={b"c:\xff": "3", "c:x": "3", f"c:{drained.key.lineage}:x": "1"})
    drained.valkey.hset(_key_of(drained, "month"), mapping={"rm:usd": "3", "rt:": "3"})
    drained.valkey.hset(drained.quota_key, "reserved", "101")
    other = (drained.shard + 1) % shards.SHARDS
    drained.valkey.hset(shards.leases_key(other), "x", "no lease")

    sync_quotas()

    assert [drift.counter for drift in QuotaDrift.objects.all()] == [101]
    assert f"leases of shard {other} hold cannot be read" in caplog.text
    drained.valkey.flushall()


def test_a_server_that_is_full_is_compared_too(drained: Market, running: Entry) -> None:
    drained.valkey.hset(drained.quota_key, "reserved", "101")
    drained.valkey.config_set("maxmemory", "1")
    try:
        sync_quotas()
    finally:
        drained.valkey.config_set("maxmemory", "0")

    assert QuotaDrift.objects.get().healed
    assert counter(drained)["reserved"] == 100


def test_nothing_is_healed_under_another_epoch(
    drained: Market, running: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    drained.valkey.hset(drained.quota_key, "reserved", "5")
    again = reservations.again

    def opened_meanwhile(*arguments: Any) -> Any:
        found = again(*arguments)
        drained.valkey.set(shards.epoch_key(drained.shard), "77:other")
        return found

    monkeypatch.setattr(reservations, "again", opened_meanwhile)
    sync_quotas()

    assert [drift.healed for drift in QuotaDrift.objects.all()] == [False]
    assert counter(drained)["reserved"] == 5


def test_one_reservation_that_is_wrong_is_found_while_calls_come_and_go(drained: Market) -> None:
    drained.valkey.hset(drained.quota_key, "reserved", "50")
    drained.start_drain()
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            entry = drained.entry(prompt_tokens=1, completion_tokens=0)
            admit(drained, entry, limits=limit_set(None, None))
            settle(drained, entry)
        connection.close()

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for _ in range(5):
        sync_quotas()
    stop.set()
    for caller in callers:
        caller.join()

    assert [(drift.counter - drift.ledger, drift.healed) for drift in QuotaDrift.objects.all()] == [
        (50, True)
    ]
    assert counter(drained)["reserved"] == 0
    drained.wait_until_drained()
