"""Consumers of every shard of a Valkey Cluster, who calls, and what has to be true afterwards."""

import asyncio
import contextlib
import random
import subprocess
import threading
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import redis
from django.conf import settings as django_settings
from django.db import connection
from django.db.models import Sum

from accounts.models import Consumer
from common import clock
from common.errors import Problem
from common.ids import uuid7
from consumption.hand_in import HandIn
from consumption.settlement import Settlement
from consumption.spool import Spool
from metering import gateways, journal, shards, valkey
from metering.models import QuotaPeriod, UsageRecord, UsageRollup
from metering.topology import parse_address
from quotas import reaper, safety, sync
from quotas.admission import Admission, Ask
from quotas.cluster import Cluster
from quotas.limits import limit_set
from quotas.line import Line, NotSent
from tests import factories
from tests.harness.admission import local_mode
from tests.harness.cluster import Node, ValkeyCluster
from tests.harness.network import ANYWHERE, COMMAND_FROM, calls_from, run_placed
from tests.harness.waiting import wait_for
from tests.metering.market import Market

#: Tokens a month of each consumer; a call reserves so many, and uses half of that.
LIMIT, RESERVED = 2_000, 100
#: Calls that run at once, and how long each takes at most, seconds.
AT_ONCE, LONGEST = 8, 0.03
#: Calls that are settled before a fault, and after it.
ENOUGH = 200
#: Consumers who call so much that they use up what they may.
GREEDY = 2


class ClusterMarket:
    """A consumer in every shard, all at one service, and a drain."""

    def __init__(self, servers: ValkeyCluster, folder: Path) -> None:
        self.servers = servers
        self.folder = folder
        self.consumers = [
            Consumer.objects.create(id=_id_in(shard), name=f"Of {shard}") for shard in range(shards.SHARDS)
        ]
        self.service = factories.make_service()
        self.key, _ = factories.make_key(self.consumers[0], self.service)
        self.client = valkey.connect()
        self.granted = Granted()
        self.market = Market(
            self.consumers[0],
            self.service,
            self.key,
            self.client,
            self.service.price_versions.get().id,
            environment=servers.environment,
            log=folder / "drain.log",
        )

    def start_drain(self, place: str = ANYWHERE) -> subprocess.Popen[bytes]:
        """``place``: where it connects from."""
        return self.market.start_drain(("manage.py",) if place == ANYWHERE else (*COMMAND_FROM, place))

    def quota_key(self, shard: int) -> str:
        month = clock.month_of(clock.now())
        return shards.quota_key(shard, self.consumers[shard].id, self.service.id, month)

    def counters(self, shard: int) -> tuple[int, int]:
        used, reserved = self.client.hmget(self.quota_key(shard), "used", "reserved")
        return int(used or 0), int(reserved or 0)

    def close_leases(self) -> int:
        """What nobody settles any more: its admission was refused as unavailable, or its release got lost."""
        closed = 0
        for shard in range(shards.SHARDS):
            open_: Any = self.client.hkeys(shards.leases_key(shard))
            if open_:
                closed += reaper.reap(shard=shard, request_ids=[uuid.UUID(id_.decode()) for id_ in open_])
        return closed

    def wait_until_drained(self) -> None:
        wait_for(
            lambda: not any(self.client.xlen(shards.journal_key(n)) for n in range(shards.SHARDS)), seconds=30
        )

    def owner(self, shard: int) -> str:
        """Who the shard's epoch is of."""
        epoch: Any = self.client.get(shards.epoch_key(shard))
        return (epoch or b"").decode().partition(":")[2]

    def is_opened_by(self, node: Node, of: list[int]) -> bool:
        run_id = node.info("server")["run_id"]
        return all(self.owner(shard) == run_id for shard in of)

    def assert_counted_once(self, *gates: "Gate") -> None:
        """I1 to I5: what was settled is in the ledger once, counters are the ledger's, nothing is open or overspent."""
        settled = {id_: tokens for gate in gates for id_, tokens in gate.settled.items()}
        self.wait_until_drained()
        self.close_leases()
        self.wait_until_drained()
        rows = {row.id: row for row in UsageRecord.objects.all()}
        assert UsageRecord.objects.count() == len(rows)
        assert {id_: rows[id_].total_tokens for id_ in settled if id_ in rows} == settled
        others = [row for id_, row in rows.items() if id_ not in settled]
        assert {(row.status, row.total_tokens) for row in others} <= {("unsettled", 0)}
        used = dict(QuotaPeriod.objects.values_list("consumer_id", "used"))
        rolled = dict(UsageRollup.objects.values_list("consumer_id").annotate(Sum("total_tokens")))
        for shard, consumer in enumerate(self.consumers):
            total = sum(row.total_tokens for row in rows.values() if row.consumer_id == consumer.id)
            assert (used.get(consumer.id, 0), rolled.get(consumer.id, 0)) == (total, total)
            assert self.counters(shard) == (total, 0)
            assert total <= LIMIT
        assert sync.sync_quotas() == []


class Granted:
    """What gateways let in, as they themselves know: whatever counters say, this must not exceed a limit."""

    def __init__(self) -> None:
        self._tokens: Counter[int] = Counter()
        self.worst = 0

    def add(self, shard: int, tokens: int) -> None:
        self._tokens[shard] += tokens
        self.worst = max(self.worst, self._tokens[shard])

    def of(self, shard: int) -> int:
        return self._tokens[shard]


class Gate:
    """What a gateway does with a call, but for HTTP. ``place``: where it calls from."""

    def __init__(self, market: ClusterMarket, spool: Spool, place: str) -> None:
        self.place = place
        self._market = market
        self._spool = spool
        self._random = random.Random(31)
        self.lines = Cluster(
            django_settings.REDIS_URL,
            [parse_address(node) for node in django_settings.VALKEY_CLUSTER],
            on_connect=self._on_connect,
            on_moved=lambda shard: self.admission.moved(shard),
        )
        self.admission = Admission(self.lines, gateway=f"{spool.name}:1", journal_bound=10**6)
        self.settlement = Settlement(self.admission, spool, local_mode(self.admission, spool))
        self.settled: dict[uuid.UUID, int] = {}
        #: Calls by shard that were settled, and those that were refused as nobody could tell.
        self.served: Counter[int] = Counter()
        self.unavailable: Counter[int] = Counter()
        self.outcomes: Counter[str] = Counter()

    async def _on_connect(self, line: Line) -> None:
        await safety.look_at(line)
        if (
            line.unsafe
        ):  # a replica that was just promoted may still be writing its file anew: the line looks again
            raise NotSent(line.unsafe)
        await self.admission.on_connect(line)

    async def wait_live(self) -> None:
        await until(lambda: self.admission.is_live)

    async def call(self, shard: int) -> None:
        id_ = uuid7()
        consumer, service = self._market.consumers[shard].id, self._market.service.id
        nothing = self._entry(id_, shard, 0)
        limits = limit_set(None, LIMIT)
        ask = Ask(
            str(id_), id_, consumer, service, limits, 10, RESERVED - 10, 1, True, journal.encode(nothing)
        )
        try:
            lease = await self.admission.admit(ask)
        except Problem as refusal:
            self.outcomes[refusal.code] += 1
            self.unavailable[shard] += refusal.code == "unavailable"
            await asyncio.sleep(0.02)
            return
        self.settlement.opened(lease, ask)
        self._market.granted.add(shard, RESERVED)
        await asyncio.sleep(self._random.random() * LONGEST)
        if self._random.random() < 0.05:
            self.outcomes["released"] += 1
            self._market.granted.add(shard, -RESERVED)
            await self.settlement.release(lease)
            return
        tokens = self._random.randint(1, RESERVED)
        self._market.granted.add(shard, tokens - RESERVED)
        await self.settlement.settle(self._entry(id_, shard, tokens), shard=shard)
        self.settled[id_] = tokens
        self.served[shard] += 1
        self.outcomes["settled"] += 1

    def _entry(self, id_: uuid.UUID, shard: int, tokens: int) -> journal.Entry:
        fields: dict[str, Any] = {
            "request_id": id_,
            "consumer_id": self._market.consumers[shard].id,
            "limit": LIMIT,
        }
        if not tokens:
            return self._market.market.unsettled(**fields)
        return self._market.market.entry(**fields, prompt_tokens=0, completion_tokens=tokens, cost="0.001")

    async def load(self, until: asyncio.Event) -> None:
        async def caller() -> None:
            while not until.is_set():
                most = GREEDY if self._random.random() < 0.3 else shards.SHARDS
                await self.call(self._random.randrange(most))

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))

    async def hand_in(self) -> None:
        """Until the spool is empty, and the ledger has all."""
        await until(lambda: not len(self._spool) + len(self._spool.retained))


@contextlib.asynccontextmanager
async def gate(market: ClusterMarket, place: str = ANYWHERE) -> AsyncIterator[Gate]:
    spool = Spool(market.folder / "spool")
    spool.open()
    opened = Gate(market, spool, place)
    handing_in = HandIn(opened.admission, opened.settlement, spool)
    await asyncio.to_thread(_register, spool.name)
    with calls_from(place):
        await opened.lines.start()
    tasks = [
        asyncio.create_task(work)
        for work in (handing_in.keep_looking(), spool.keep_settling(opened.admission))
    ]
    await opened.wait_live()
    yield opened
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await opened.lines.stop()
    spool.close()


class Observer(threading.Thread):
    """Looks from outside, again and again, at what consumers have used and reserved together (I3).

    Every node is asked that may think itself their master: there may be two of them.
    """

    def __init__(self, nodes: Sequence[Node], keys: Sequence[str]) -> None:
        super().__init__(daemon=True)
        self._keys = keys
        self._nodes = [node.impatient_client() for node in nodes]
        self._ended = threading.Event()
        self.looks = self.worst = 0

    def run(self) -> None:
        while not self._ended.wait(0.005):
            for node in self._nodes:
                for key in self._keys:
                    with contextlib.suppress(redis.RedisError):
                        found: Any = node.hmget(key, "used", "reserved")
                        self.worst = max(self.worst, sum(int(value or 0) for value in found))
                        self.looks += 1
        for node in self._nodes:
            node.close()

    def end(self) -> None:
        self._ended.set()
        self.join(20)


def _register(name: str) -> None:
    """Drains wait for it before they open a shard."""
    gateways.report(gateways.Report(name, "one.example", clock.now(), 0, 0, None))
    connection.close()


def under_load(market: ClusterMarket, fault: Callable[[], None]) -> Gate:
    """Calls before, during and after a fault, and at no moment more than the limit held."""
    (opened,) = gates_under_load(market, lambda _: fault(), ANYWHERE)
    return opened


def gates_under_load(
    market: ClusterMarket, fault: Callable[[Sequence[Gate]], None], *places: str
) -> Sequence[Gate]:
    """``under_load`` for several gateways, each where it is.

    They have a thread of their own: a server dies with who started it.
    """
    begun, mended = threading.Event(), threading.Event()
    gates: list[Gate] = []

    async def calls() -> None:
        async with contextlib.AsyncExitStack() as held:
            gates.extend([await held.enter_async_context(gate(market, place)) for place in places])
            done = asyncio.Event()
            loads = [asyncio.create_task(each.load(done)) for each in gates]
            await _settled(gates, ENOUGH)
            begun.set()
            await asyncio.to_thread(mended.wait)
            await asyncio.gather(*(each.wait_live() for each in gates))
            await _settled(gates, ENOUGH)
            done.set()
            await asyncio.gather(*loads)
            await asyncio.gather(*(each.hand_in() for each in gates))

    observer = Observer(market.servers.nodes, [market.quota_key(shard) for shard in range(GREEDY)])
    observer.start()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_placed, calls())
        try:
            assert begun.wait(60)
            fault(gates)
        finally:
            mended.set()
        running.result()
    observer.end()
    assert observer.looks > ENOUGH
    assert observer.worst <= LIMIT, observer.worst
    assert market.granted.worst <= LIMIT, market.granted.worst
    return gates


async def _settled(gates: Sequence[Gate], more: int) -> None:
    before = [each.outcomes["settled"] for each in gates]
    await until(
        lambda: all(
            each.outcomes["settled"] > one + more // len(gates)
            for each, one in zip(gates, before, strict=True)
        )
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.02)


def _id_in(shard: int) -> uuid.UUID:
    while True:
        id_ = uuid.uuid4()
        if shards.shard_of(id_) == shard:
            return id_
