"""The same scripts on a Valkey Cluster as on one server."""

import asyncio

import requests

from analytics import events, from_gateways
from catalog.limits import Limits
from consumption.endpoint_troubles import read_troubles
from consumption.quota_reading import quota_now
from metering import shards
from metering.models import ShardEpoch, UsageRecord
from quotas import reaper, safety
from quotas.replicated import ReplicatedLine
from tests import factories
from tests.cluster.market import LIMIT, ClusterMarket, Gate, gate
from tests.harness.cluster import ValkeyCluster
from tests.harness.waiting import wait_for
from tests.live.stack import Stack
from tests.metering.market import database_url


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
        assert gateway.get("/health/ready").status_code == 200
        headers = {"Authorization": f"Bearer {text}", "Idempotency-Key": "once"}
        url, body = f"{gateway.url}/api/v1/consume/{service.id}", {"prompt": "Why?", "max_tokens": 20}
        first, again = (requests.post(url, json=body, headers=headers, timeout=20) for _ in range(2))
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
            line = ReplicatedLine(master.url, on_connect=safety.look_at, on_refusal=lambda: None, timeout=0.1)
            await line.start()
            assert await line.wait_open(5)
            assert line.unsafe[:8] == expected
            assert line.replicas == 1
            await line.stop()
