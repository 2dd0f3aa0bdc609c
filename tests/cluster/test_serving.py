"""The same scripts on a Valkey Cluster as on one server."""

import asyncio
import datetime as dt

import pytest
import requests

from accounts.models import ConsumerBudget
from analytics import events, from_gateways
from catalog.limits import Limits
from common import clock
from common.ids import uuid7
from consumption.endpoint_troubles import read_troubles
from consumption.quota_reading import quota_now
from finance import periods, reconciliation
from finance.models import Difference
from metering import barrier, epochs, shards
from metering.models import ShardEpoch, UsageRecord
from quotas import notices, reaper, safety, sync
from quotas.models import BudgetNotice
from quotas.replicated import ReplicatedLine
from tests import factories
from tests.cluster.market import LIMIT, ClusterMarket, Gate, gate
from tests.harness.cluster import ValkeyCluster
from tests.harness.waiting import wait_for
from tests.live.stack import Stack, patiently
from tests.metering.market import database_url


@pytest.mark.usefixtures("steady")
def test_every_shard_is_admitted_settled_and_drained(market: ClusterMarket) -> None:
    async def calls() -> Gate:
        async with gate(market) as opened:
            for _ in range(3):
                await asyncio.gather(*(opened.call(shard) for shard in range(shards.SHARDS)))
            return opened

    market.start_drain()
    opened = asyncio.run(calls())

    assert opened.outcomes["settled"] + opened.outcomes["released"] == 3 * shards.SHARDS
    market.assert_counted_once(opened)
    assert set(ShardEpoch.objects.values_list("number", "state")) == {(1, "live")}
    last = market.consumers[-1].id
    tier = Limits(requests_per_second=5, tokens_per_month=LIMIT)
    told = quota_now(consumer_id=last, service_id=market.service.id, tier=tier, further=())
    assert told.used == market.counters(shards.SHARDS - 1)[0] > 0
    assert read_troubles() == {}
    market.client.xadd(events.STREAM, {events.STREAM_FIELD: b"{}"})
    read = from_gateways.read(market.client)
    assert read is not None
    assert [event for _, event in read.entries] == [b"{}"]
    assert reaper.reap_expired() == 0


def test_a_month_closes_and_owners_are_told_of_budgets(
    market: ClusterMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks at all shards at once finds each at its master: reconciliation, closing a month, budgets."""
    quick = ((sync, "BETWEEN_LOOKS", 0.01), (sync, "PATIENCE", 1.0), (barrier, "PATIENCE", 1.0))
    for module, name, seconds in quick:
        monkeypatch.setattr(module, name, seconds)
    now = clock.now
    begin = clock.month_start(clock.month_of(now()))
    if now() - begin < dt.timedelta(minutes=20):  # its first minutes are passed over
        monkeypatch.setattr(clock, "now", lambda: now() + dt.timedelta(minutes=20))
    moment = int(begin.timestamp() * 1000) - 1
    calls = [(consumer, id_) for consumer in market.consumers for id_ in (uuid7(moment), uuid7())]
    market.market.write(
        *[market.market.entry(consumer_id=consumer.id, request_id=id_) for consumer, id_ in calls]
    )
    for consumer in market.consumers[:3]:
        ConsumerBudget.objects.create(consumer=consumer, amount="0.003", currency="USD", period="month")
    market.start_drain()
    wait_for(epochs.all_live)
    market.wait_until_drained()

    assert reconciliation.reconcile(asked_by="anna") is not None
    assert not Difference.objects.exists()
    last = clock.month_of(begin - dt.timedelta(days=1))
    assert periods.close(last, actor="anna").records == shards.SHARDS
    notices.write()
    told = BudgetNotice.objects.values_list("consumer_id", "threshold")
    assert set(told) == {(consumer.id, 100) for consumer in market.consumers[:3]}


def test_a_gateway_serves_over_it(market: ClusterMarket) -> None:
    """Keys, limits, kept answers, the ledger; and it is ready."""
    market.start_drain()
    stack = Stack(market.folder, database_url(), market.servers.nodes[0])
    try:
        stack.start_upstream()
        service = factories.make_service(endpoint=stack.upstream_url)
        _, text = factories.make_key(service=service)
        nodes = market.servers.environment["VALKEY_CLUSTER"]
        gateway = stack.start_gateway(VALKEY_CLUSTER=nodes)
        # It is ready as soon as one shard is: on a cluster nobody waits for the shards of others.
        wait_for(lambda: gateway.get("/health/ready").json()["dependencies"]["limits"] == "live")
        headers = {"Authorization": f"Bearer {text}", "Idempotency-Key": "once"}
        url, body = f"{gateway.url}/api/v1/consume/{service.id}", {"prompt": "Why?", "max_tokens": 20}
        first, again = (
            patiently(lambda: requests.post(url, json=body, headers=headers, timeout=20)) for _ in range(2)
        )
    finally:
        stack.stop()

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first.json()
    wait_for(lambda: UsageRecord.objects.filter(id=first.json()["request_id"], status="success").exists())
    assert UsageRecord.objects.count() == 1


async def test_a_master_that_may_lose_usage_is_named_unsafe(servers: ValkeyCluster) -> None:
    master = servers.master_of(0)
    for name, unsafe, safe in (
        ("min-replicas-to-write", 0, 1),
        ("cluster-node-timeout", 20_000, 2_000),
        ("maxmemory-policy", "allkeys-lru", "noeviction"),
    ):
        for value, expected in ((unsafe, "unsafe: "), (safe, "")):
            master.ask("CONFIG", "SET", name, value)
            line = ReplicatedLine(master.url, on_connect=safety.look_at, on_refusal=lambda: None, timeout=5)
            await line.start()
            assert await line.wait_open(20)
            assert line.unsafe[:8] == expected
            assert line.replicas == 1
            await line.stop()
