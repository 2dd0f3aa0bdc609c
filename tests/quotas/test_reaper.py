"""Leases that nobody settled: given back, journalled as unsettled, and still open to a late settle."""

from decimal import Decimal

import pytest

from common.ids import uuid7
from metering import shards
from metering.models import UsageRecord
from quotas import reaper
from quotas.leases import GRACE_MS
from quotas.tasks import reap_leases
from tests.metering.market import Market
from tests.metering.scripts import admit, counter, settle, write_former_lease

#: A lease whose deadline and grace are over the moment it is made.
OVER = -GRACE_MS - 1


def test_only_leases_past_their_grace_are_closed(market: Market) -> None:
    market.drain()
    dead, fresh = market.entry(), market.entry()
    admit(market, dead, lease_ms=OVER)
    admit(market, fresh, lease_ms=-GRACE_MS // 2)

    assert reaper.reap_expired() == 1
    reap_leases()
    market.drain()

    row = UsageRecord.objects.get()
    assert (row.id, row.status, row.settlement) == (dead.request_id, "unsettled", "reaped")
    assert (row.cost_amount, row.total_tokens) == (Decimal(0), 0)
    assert counter(market) == {"reserved": 100}
    assert market.valkey.hlen(shards.leases_key(market.shard)) == 1
    market.assert_reconciled()


def test_a_late_settle_after_the_reaper_counts_once(market: Market) -> None:
    market.drain()
    entry = market.entry()
    admit(market, entry, lease_ms=OVER)
    assert reaper.reap_expired() == 1
    settle(market, entry)
    settle(market, entry)
    market.drain()

    row = UsageRecord.objects.get()
    assert (row.status, row.settlement, row.total_tokens) == ("success", "late", 30)
    assert counter(market) == {"reserved": 0, "used": 30}
    market.assert_reconciled()


def test_more_leases_than_one_call_closes_are_all_closed(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.drain()
    monkeypatch.setattr(reaper, "MOST", 3)
    for _ in range(10):
        assert admit(market, market.entry(), cap=1, lease_ms=OVER)[0] == b"ok"

    assert reaper.reap_expired() == 10
    assert counter(market) == {"reserved": 0}
    assert market.waiting() == 10


def test_named_leases_are_closed_at_once_and_only_once(market: Market) -> None:
    market.drain()
    first, second = market.entry(), market.entry()
    admit(market, first)
    admit(market, second)

    assert reaper.reap(shard=market.shard, request_ids=[first.request_id, uuid7()]) == 1
    assert reaper.reap(shard=market.shard, request_ids=[first.request_id]) == 0
    assert reaper.reap(shard=market.shard, request_ids=[]) == 0
    assert counter(market) == {"reserved": 100}
    assert market.waiting() == 1


def test_a_shard_without_an_epoch_is_left_alone(market: Market) -> None:
    market.drain()
    entry = market.entry()
    admit(market, entry, lease_ms=OVER)
    market.valkey.delete(shards.epoch_key(market.shard))

    assert reaper.reap_expired() == 0
    assert reaper.reap(shard=market.shard, request_ids=[entry.request_id]) == 0
    assert (counter(market), market.waiting()) == ({"reserved": 100}, 0)


def test_leases_of_former_versions_are_closed_like_others(market: Market) -> None:
    """They were hashes, with their deadlines in a sorted set."""
    market.drain()
    dead, alive = market.entry(), market.entry()
    for entry, deadline in ((dead, 0), (alive, 2**53)):
        write_former_lease(market, entry, deadline)

    assert reaper.reap_expired() == 1
    market.drain()

    assert UsageRecord.objects.get().id == dead.request_id
    assert counter(market) == {"reserved": 100}
    now = shards.now_key(market.shard, market.consumer.id)
    assert market.valkey.hmget(now, "c:x", "p:x") == [b"1", b"600"]
    period = market.spent_key(f"{market.month:%Y%m}")
    assert market.valkey.hmget(period, "rt:x", "rm:USD") == [b"100", b"910"]
    former = shards.former_leases_key(market.shard)
    assert market.valkey.zrange(former, 0, -1) == [str(alive.request_id).encode()]
