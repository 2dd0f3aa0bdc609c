"""What a gateway does with a call, but for HTTP: the product's admission, settlement and spool, in a thread."""

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import hiredis
import msgspec
import redis

from catalog.pricing import Price, Tokens
from common import clock
from common.errors import Unavailable
from common.ids import uuid7
from common.money import ZERO, plain
from consumption import hand_in
from consumption import spool as spool_module
from consumption.hand_in import HandIn
from consumption.settlement import Settlement
from consumption.spool import Spool
from metering import gateways, journal
from metering.shards import shard_of
from quotas import reaper
from quotas.admission import Admission, Ask, Lease
from quotas.limits import limit_set
from quotas.line import Line, LineError
from tests.harness.admission import local_mode
from tests.schedules.schedule import PlannedCall

UNLIMITED = limit_set(None, None)
#: A little less often than this the product looks after what waits; here time is short.
PAUSE = 0.03


@dataclass(frozen=True)
class Buyer:
    consumer_id: uuid.UUID
    key_id: uuid.UUID
    lineage: uuid.UUID

    @property
    def shard(self) -> int:
        return shard_of(self.consumer_id)


@dataclass(frozen=True)
class Offer:
    service_id: uuid.UUID
    price_version_id: uuid.UUID
    price: Price


@dataclass
class Told:
    """What became of the calls of a schedule, as their caller was told."""

    buyers: list[Buyer]
    offers: list[Offer]
    #: What each call came to, of those that were answered.
    settled: dict[uuid.UUID, journal.Entry] = field(default_factory=dict)
    #: Let in, and never heard of again.
    abandoned: set[uuid.UUID] = field(default_factory=set)
    #: Refused, or let in without a word of it.
    refused: set[uuid.UUID] = field(default_factory=set)
    poison: list[bytes] = field(default_factory=list)


class Gateway:
    """One gateway that lives as long as the servers do."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
        self._running: list[Future[None]] = []
        self._background: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._thread.start()
        self.run(self._start())

    def stop(self) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _start(self) -> None:
        self.spool = Spool(self._folder)
        self.spool.open()
        self._line = Line(self._url, on_connect=self._on_connect)
        self.admission = Admission(self._line, gateway=f"{self.spool.name}:1", journal_bound=1_000_000)
        self.settlement = Settlement(self.admission, self.spool, local_mode(self.admission, self.spool))
        await self._line.start()
        create = asyncio.get_running_loop().create_task
        handing_in = HandIn(self.admission, self.settlement, self.spool)
        self._background = [
            create(handing_in.keep_looking()),
            create(self.spool.keep_settling(self.admission)),
        ]

    async def _stop(self) -> None:
        for running in self._running:
            running.cancel()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._line.stop()
        self.spool.close()

    async def _on_connect(self, line: Line) -> None:
        await self.admission.on_connect(line)

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here, every call would be let in, and the ledger is known to have all."""
        waiting = len(self.spool) + len(self.spool.retained) + self.settlement.open_calls
        return self.admission.is_live and not waiting

    def begin(self, calls: tuple[PlannedCall, ...], told: Told) -> None:
        """Make the calls of a schedule, from now on."""
        self._running = [
            asyncio.run_coroutine_threadsafe(self._call(call, told), self._loop) for call in calls
        ]

    def finish(self, seconds: float) -> None:
        """Wait until every call has been answered. Raises what any of them met that it should not have."""
        for running in self._running:
            running.result(timeout=seconds)

    def register(self) -> None:
        """As a gateway does a few times a minute: drains wait until it has handed in."""
        name, now = self.spool.name, clock.now()
        gateways.report(gateways.Report(name, "schedules", now, 0, 0, None))

    # -- one call ------------------------------------------------------------------------------------------------

    async def _call(self, call: PlannedCall, told: Told) -> None:
        await asyncio.sleep(call.at)
        buyer, offer = told.buyers[call.consumer], told.offers[call.service]
        nothing, ask, lease = await self._admitted(call, buyer, offer, told)
        if call.end == "abandoned":
            told.abandoned.add(lease.request_id)
            return
        self.settlement.opened(lease, ask)
        await asyncio.sleep(call.lasts)
        if call.end == "late":
            await asyncio.to_thread(_reap, lease)
        entry = _entry_of(call, nothing, offer)
        await self.settlement.settle(entry, shard=lease.shard)
        told.settled[entry.request_id] = entry
        if call.end == "handed in twice" and not len(self.spool):
            # As a call that is handed in again after all: never before what may still come of the first time.
            with contextlib.suppress(LineError, hiredis.ReplyError):
                await self.admission.append(lease.shard, journal.encode(entry))

    async def _admitted(
        self, call: PlannedCall, buyer: Buyer, offer: Offer, told: Told
    ) -> tuple[journal.Entry, Ask, Lease]:
        """As clients do, a call that was refused is made again."""
        while True:
            entry = _nothing(buyer, offer)
            ask = Ask(
                str(entry.request_id), entry.request_id, buyer.consumer_id, offer.service_id, UNLIMITED, call.prompt,
                call.completion, 1, True, journal.encode(entry),
            )  # fmt: skip
            try:
                return entry, ask, await self.admission.admit(ask)
            except Unavailable:
                told.refused.add(entry.request_id)
            await asyncio.sleep(PAUSE)


def _nothing(buyer: Buyer, offer: Offer) -> journal.Entry:
    return journal.Entry(
        request_id=uuid7(),
        consumer_id=buyer.consumer_id,
        service_id=offer.service_id,
        api_key_id=buyer.key_id,
        price_version_id=offer.price_version_id,
        tier="enterprise",
        currency=offer.price.currency,
        status="unsettled",
        key_lineage=buyer.lineage,
    )


def _entry_of(call: PlannedCall, nothing: journal.Entry, offer: Offer) -> journal.Entry:
    if call.end == "failed":
        return msgspec.structs.replace(nothing, status="error", error="upstream_unavailable", duration_ms=5)
    return msgspec.structs.replace(
        nothing,
        status="success",
        duration_ms=int(call.lasts * 1000),
        prompt_tokens=call.prompt,
        completion_tokens=call.completion,
        cached_tokens=call.cached,
        usage_source="reported",
        cost=plain(cost_of(offer.price, call)),
    )


def cost_of(price: Price, call: PlannedCall) -> Decimal:
    tokens = Tokens(prompt=call.prompt, completion=call.completion, cached=call.cached)
    return price.cost(tokens, charged=True) or ZERO


def _reap(lease: Lease) -> None:
    """The reaper is quicker than the call: it settles late. Where Valkey is away, it does not."""
    with contextlib.suppress(redis.RedisError):
        reaper.reap(shard=lease.shard, request_ids=[lease.request_id])


def quicken(patch: Any) -> None:
    """What waits for half a second waits for less."""
    patch.setattr(spool_module, "PAUSE_SECONDS", PAUSE)
    for name in ("PAUSE_SECONDS", "LOOK_SECONDS", "OPENING_SECONDS"):
        patch.setattr(hand_in, name, PAUSE)
