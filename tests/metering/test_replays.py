"""Calls that came to the journal without their counter: the drain credits it, once."""

from metering import shards
from metering.models import UsageRecord
from tests.metering.market import Market


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
