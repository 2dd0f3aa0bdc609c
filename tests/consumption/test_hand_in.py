"""Whatever Valkey loses, gateways hand in again: once in the ledger, once in the counters, before a shard is opened."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from common import clock
from common.ids import uuid7
from devstack.valkey import Valkey
from metering import gateways, hand_ins, journal, shards
from metering.models import Gateway as Registered
from metering.models import UsageRecord
from metering.valkey import OneLife
from quotas.admission import Ask, Lease
from quotas.limits import Limit, limit_set
from tests.committed import audit_trail_may_be_emptied, committed
from tests.harness.admission import PATIENT
from tests.harness.waiting import wait_for
from tests.metering.market import Market, open_market
from tests.metering.scripts import counter
from tests.schedules.gateway import Gateway, quicken

__all__ = ["audit_trail_may_be_emptied", "committed"]

LIMITS = limit_set(
    None, 10_000, (Limit("c", "service", "c:x", 10), Limit("d", "key", "m:USD", 10**12, "USD")), (7, 1, 10)
)


class Caller:
    """A gateway that is on the register, and calls of the market's consumer."""

    def __init__(self, market: Market, url: str, folder: Path) -> None:
        self.market = market
        self.gateway = Gateway(url, folder)
        self.gateway.start()
        self.gateway.register()

    def begin(self) -> tuple[Ask, Lease]:
        begun: tuple[Ask, Lease] = self.gateway.run(self._begin())
        return begun

    async def _begin(self) -> tuple[Ask, Lease]:
        id_ = uuid7()
        nothing = self.market.unsettled(request_id=id_)
        ask = Ask(
            str(id_), id_, self.market.consumer.id, self.market.service.id, LIMITS, 10, 90, 1, True,
            journal.encode(nothing),
        )  # fmt: skip
        lease = await self.gateway.admission.admit(ask)
        self.gateway.settlement.opened(lease, ask)
        return ask, lease

    def settle(self, begun: tuple[Ask, Lease]) -> None:
        entry = self.market.entry(request_id=begun[0].request_id)
        self.gateway.run(self.gateway.settlement.settle(entry, shard=begun[1].shard))

    def call(self, count: int) -> None:
        for _ in range(count):
            self.settle(self.begin())

    @property
    def retained(self) -> int:
        return len(self.gateway.spool.retained)


@pytest.fixture
def market(committed: None, own_valkey: Valkey, settings: Any, tmp_path: Path) -> Iterator[Market]:
    """On a Valkey that the test may kill and erase, and open."""
    settings.REDIS_URL = own_valkey.url
    opened = open_market(tmp_path / "drain.log")
    opened.drain()
    yield opened
    opened.stop()
    opened.valkey.close()


@pytest.fixture
def caller(
    market: Market, own_valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Caller]:
    quicken(monkeypatch)
    monkeypatch.setattr("quotas.admission.ANSWER_SECONDS", PATIENT)
    found = Caller(market, own_valkey.url, tmp_path / "spool")
    wait_for(lambda: found.gateway.admission.is_live)
    yield found
    found.gateway.stop()


def lose(valkey: Valkey) -> None:
    valkey.kill()
    valkey.erase()
    valkey.start()


def day_counter(market: Market) -> dict[str, int]:
    found: Any = market.valkey.hgetall(market.spent_key(f"{clock.now():%Y%m%d}"))
    return {name.decode(): int(value) for name, value in found.items() if int(value)}


def assert_counted(market: Market, calls: int) -> None:
    """Each once, exactly, wherever it is counted; and nothing is reserved."""
    market.assert_reconciled()
    assert UsageRecord.objects.filter(status="success").count() == UsageRecord.objects.count() == calls
    assert {"reserved": 0} | counter(market) == {"used": 30 * calls, "reserved": 0}
    assert day_counter(market)["m:USD"] == 3_000_000 * calls


def test_what_is_lost_is_counted_before_the_shards_are_opened(
    market: Market, caller: Caller, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three are in the ledger, four in the journal alone, one runs, and one ends while there is no Valkey."""
    caller.call(3)
    market.drain()
    wait_for(lambda: caller.retained == 0)
    caller.call(4)
    open_, ends_meanwhile = caller.begin(), caller.begin()
    assert counter(market) == {"used": 210, "reserved": 200}
    assert caller.retained == 4

    lose(own_valkey)
    caller.settle(ends_meanwhile)
    assert UsageRecord.objects.count() == 3
    monkeypatch.setattr(hand_ins, "PATIENCE", 60.0)
    started = time.monotonic()
    market.drain()
    assert time.monotonic() - started < 30.0  # nobody is waited for

    assert UsageRecord.objects.count() == 8
    wait_for(lambda: caller.gateway.admission.is_live)
    now: Any = market.valkey.hgetall(shards.now_key(market.shard, market.consumer.id))
    assert (counter(market)["reserved"], now[b"c:x"]) == (100, b"1")
    assert day_counter(market)["rm:USD"] == 7 + 10 + 900
    assert caller.gateway.run(caller.gateway.admission.renew(market.shard, [open_[0].request_id])) == []
    caller.settle(open_)
    market.drain()
    assert market.record(market.entry(request_id=open_[0].request_id)).settlement == "lease"
    assert_counted(market, 9)
    wait_for(lambda: caller.retained == 0)


def test_an_emptied_server_that_goes_on_running_loses_nothing_either(market: Market, caller: Caller) -> None:
    caller.call(4)
    market.valkey.flushall()
    market.drain()
    wait_for(lambda: caller.gateway.admission.is_live)
    caller.call(1)
    market.drain()
    assert_counted(market, 5)


def test_what_is_not_lost_is_handed_in_and_changes_nothing(
    market: Market, caller: Caller, own_valkey: Valkey
) -> None:
    caller.call(4)
    open_ = caller.begin()
    own_valkey.restart()
    market.drain()
    assert counter(market) == {"used": 120, "reserved": 100}
    assert UsageRecord.objects.filter(settlement="lease").count() == 4
    wait_for(lambda: caller.gateway.admission.is_live)
    caller.settle(open_)
    market.drain()
    assert_counted(market, 5)
    wait_for(lambda: caller.retained == 0)


def test_who_is_not_waited_for_is_credited_once(market: Market, caller: Caller, own_valkey: Valkey) -> None:
    """Its calls are still counted, whatever of them the ledger has; the open one ends without a lease."""
    caller.call(2)
    market.drain()
    wait_for(lambda: caller.retained == 0)
    caller.call(3)
    open_ = caller.begin()
    Registered.objects.all().delete()
    # It hears of nothing meanwhile, and hands in what the ledger has, and what it has not.
    blocked = threading.Event()
    caller.gateway._loop.call_soon_threadsafe(blocked.wait)
    lose(own_valkey)
    market.drain()
    used = market.used()
    blocked.set()
    assert used == 60
    wait_for(lambda: caller.gateway.admission.is_live)
    wait_for(lambda: market.waiting() == 3)
    caller.settle(open_)
    market.drain()
    assert_counted(market, 6)
    wait_for(lambda: caller.retained == 0)


class Clock:
    """A clock that goes only where somebody waits; ``meanwhile``: what happens then."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.meanwhile: Callable[[], object] = bool

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def test_a_silent_gateway_is_waited_for_once_and_not_for_long(
    market: Market, own_valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock_, waiting, server = Clock(), hand_ins.HandIns(), OneLife()
    monkeypatch.setattr(hand_ins, "time", clock_)
    for name in ("silent", "ended", "dismissed", "long silent", "handed in"):
        gateways.report(gateways.Report(name, "h", clock.now(), 0, 0, None))
    gateways.end("ended")
    Registered.objects.filter(id="dismissed").update(dismissed_at=clock.now())
    Registered.objects.filter(id="long silent").update(seen_at=clock.now() - gateways.SILENT_AFTER * 2)
    for shard in (3, 4):
        market.valkey.sadd(shards.handed_in_key(shard), "handed in", "unknown")
    market.valkey.sadd(shards.handed_in_key(3), "silent")

    def waited(*of: int) -> float:
        before = clock_.now
        waiting.wait(server, of)
        return round(clock_.now - before, 1)

    assert waited(3) == 0.0
    assert waited(3, 4) == 5.0
    assert waited(3, 4) == 0.0
    clock_.now += 60
    assert waited(3, 4) == 5.0

    # One that is at work is not silent, however much it has; but there is an end to it.
    clock_.now += 60
    left = iter([market.entry() for _ in range(100)])
    clock_.meanwhile = lambda: market.write(*islice(left, 1))
    assert waited(3, market.shard) == 6.0
    clock_.now += 60
    monkeypatch.setattr(hand_ins, "LONGEST", 1.0)
    assert waited(3, 4) == 1.0
    server.close()
