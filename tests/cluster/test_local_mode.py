"""On a cluster: while masters are away, gateways serve their consumers out of shares, and the others as ever."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pytest

from catalog.models import Entitlement, Service
from common import clock
from keys.models import ApiKey
from metering import shards
from tests import factories
from tests.cluster.market import ClusterMarket
from tests.harness.cluster import Node
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack
from tests.live.test_faults import Load, records
from tests.live.test_local_mode import mode_of, used_up
from tests.metering.market import database_url

LIMIT = 2_000


@dataclass
class Payer:
    """A consumer with a limit, who calls one service through every gateway."""

    market: ClusterMarket
    service: Service
    shard: int
    gateways: Sequence[GatewayProcess]

    def __post_init__(self) -> None:
        self.consumer = self.market.consumers[self.shard]
        self.key: ApiKey
        self.key, self.text = factories.make_key(self.consumer, self.service)
        Entitlement.objects.filter(consumer=self.consumer, service=self.service).update(
            tokens_per_month=LIMIT, requests_per_second=100_000
        )
        self.loads = [Load(gateway.url, self.service, self.text) for gateway in self.gateways]

    @property
    def quota_key(self) -> str:
        month = clock.month_of(clock.now())
        return shards.quota_key(self.shard, self.consumer.id, self.service.id, month)

    def counters(self) -> tuple[int, int]:
        used, reserved = self.market.client.hmget(self.quota_key, "used", "reserved")
        return int(used or 0), int(reserved or 0)

    def warm_up(self) -> None:
        """Every gateway holds a share."""
        for load in self.loads:
            held = self.counters()[1]
            call(load, 1)
            wait_for(lambda held=held: self.counters()[1] > held + 100)  # type: ignore[misc]

    def call_until_refused(self) -> int:
        """Returns how many tokens were served."""
        before = self.served
        for load in self.loads:
            wait_for(lambda load=load: used_up(load), seconds=30)  # type: ignore[misc]
        return self.served - before

    @property
    def served(self) -> int:
        return sum(self.answered.values())

    @property
    def answered(self) -> dict[str, int]:
        found = [document for load in self.loads for document in load.succeeded.values()]
        return {document["request_id"]: document["usage"]["total_tokens"] for document in found}

    def assert_counted_once(self) -> None:
        """The ledger has what was answered, counters have the ledger, and it is no more than the limit.

        Until then counters may show more: of a call that is appended under a new epoch, the share holds the room too.
        """
        wait_for(lambda: self.counters() == (self.served, 0))
        # Counters follow a settle at once, the ledger when it is drained.
        wait_for(lambda: len(records(self.key)) >= len(self.answered))
        assert {id_: row.total_tokens for id_, row in records(self.key).items()} == self.answered
        assert self.served <= LIMIT


def call(load: Load, times: int) -> None:
    """Until so many were served, one after the other."""
    served = len(load.succeeded) + times

    def is_served() -> bool:
        load.run(1, at_once=1)
        return len(load.succeeded) >= served

    wait_for(is_served)


def nearly_all_served(payer: Payer) -> bool:
    """Shares hold room for a moment of which there is none to spare: five refusals in a row may come before the end."""
    payer.call_until_refused()
    return payer.served > LIMIT - 200


@pytest.fixture
def stack(market: ClusterMarket) -> Iterator[Stack]:
    market.start_drain()
    running = Stack(market.folder, database_url(), market.servers.nodes[0])
    running.start_upstream()
    yield running
    for node in market.servers.nodes:
        node.resume()
    running.stop()


def start_gateway(stack: Stack, market: ClusterMarket) -> GatewayProcess:
    return stack.start_gateway(
        SPOOL_DIR=str(stack.folder / f"spool-{uuid.uuid4()}"),
        MAX_GATEWAYS="2",
        VALKEY_CLUSTER=market.servers.environment["VALKEY_CLUSTER"],
    )


def test_shares_are_served_while_masters_are_away_and_no_more(market: ClusterMarket, stack: Stack) -> None:
    """One of them with its replica, then all of them."""
    victim = market.servers.master_of(0)
    port = str(victim.port)
    away: list[Node] = [
        victim,
        *(n for n in market.servers.nodes if n.info("replication").get("master_port") == port),
    ]
    of = market.servers.shards_of(victim)
    elsewhere = next(shard for shard in range(shards.SHARDS) if shard not in of)
    service = factories.make_service(endpoint=stack.upstream_url, outage_mode="local")
    gateways = [start_gateway(stack, market) for _ in range(2)]
    near, far = (Payer(market, service, shard, gateways) for shard in (0, elsewhere))
    for payer in (near, far):
        payer.warm_up()
    _, shared = near.counters()

    for node in away:
        node.pause()
    assert shared * 0.7 < near.call_until_refused() <= shared
    for load in far.loads:
        call(load, 3)
    wait_for(lambda: {mode_of(gateway) for gateway in gateways} == {"normal"})
    wait_for(lambda: far.counters()[0] == far.served)

    for node in market.servers.nodes:
        node.pause()
    assert far.call_until_refused() > 0
    wait_for(lambda: {mode_of(gateway) for gateway in gateways} == {"local"})

    for node in market.servers.nodes:
        node.resume()
    wait_for(lambda: {mode_of(gateway) for gateway in gateways} == {"normal"})
    for payer in (near, far):
        wait_for(lambda payer=payer: payer.counters()[0] == payer.served)  # type: ignore[misc]  # a lambda has no types
        wait_for(partial(nearly_all_served, payer), seconds=60)
    for gateway in gateways:
        gateway.terminate()
    for payer in (near, far):
        payer.assert_counted_once()
