"""Calls that came to the journal without their counter: the drain credits it, once."""

from typing import Any

import pytest

from metering import shards
from metering.models import UsageRecord
from tests.metering.market import Market
from tests.metering.scripts import admit, counter, settle


def test_a_replay_counts_once_however_often_it_comes(market: Market) -> None:
    market.drain()
    entry = market.entry()

    market.write(entry, entry, how="replay")
    market.drain()
    market.write(entry, how="replay")
    market.drain()

    assert market.used() == 30
    assert UsageRecord.objects.get().settlement == "replay"
    ttl = market.valkey.ttl(shards.credited_key(market.shard, entry.request_id))
    assert 0 < ttl <= 24 * 60 * 60
    assert market.valkey.expiretime(market.quota_key) == shards.quota_expires(market.month)


@pytest.mark.parametrize("used", [{}, {"prompt_tokens": 0, "completion_tokens": 0, "cost": "0"}])
def test_the_lease_of_a_replayed_call_ends_as_it_is_credited(market: Market, used: dict[str, Any]) -> None:
    """At no moment does it count by what it used and by what it reserved too, nor if its settle comes after all."""
    market.drain()
    entry = market.entry(**used)
    admit(market, market.entry())
    admit(market, entry)
    market.write(entry, how="replay")
    assert counter(market) == {"reserved": 200}

    market.drain()
    assert counter(market) == {"used": entry.total_tokens, "reserved": 100}
    settle(market, entry)
    market.drain()
    assert counter(market) == {"used": entry.total_tokens, "reserved": 100}
    assert UsageRecord.objects.count() == 1


def test_a_replay_of_what_was_settled_credits_nothing(market: Market) -> None:
    market.drain()
    entry = market.entry()
    market.write(entry, how="lease")
    market.write(entry, how="replay")
    market.drain()

    assert market.used() == 0
    assert UsageRecord.objects.count() == 1


def test_a_replay_that_settles_an_unsettled_call_is_credited(market: Market) -> None:
    market.drain()
    entry = market.entry()
    market.write(market.unsettled(request_id=entry.request_id), how="reaped")
    market.drain()
    market.write(entry, how="replay")
    market.drain()

    assert market.used() == 30
    market.assert_reconciled()


def test_a_replay_refused_by_the_ledger_is_not_credited(market: Market) -> None:
    market.drain()
    settled = market.entry()
    market.write(settled)
    market.write(market.entry(request_id=settled.request_id, prompt_tokens=500), how="replay")
    market.drain()

    assert market.used() == 0
