"""Ending what admission began: every call that was let in becomes exactly one journal entry."""

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import Collection
from decimal import Decimal

import hiredis
import msgspec

from catalog.snapshot import Offer, PricedVersion
from common.errors import Unavailable
from common.money import ZERO, plain
from consumption.call import Call, Terms
from consumption.dialects.base import PaidRequest
from consumption.local_mode import LocalMode
from consumption.replies import Reply
from consumption.spool import Spool
from keys.grants import Grant
from metering import journal
from quotas.admission import Admission, Ask, Lease, StaleEpoch
from quotas.commands import Ready
from quotas.leases import RENEW_EVERY_SECONDS
from quotas.limits import LimitSet
from quotas.line import LineError

log = logging.getLogger(__name__)


def blank_of(grant: Grant, offer: Offer, price: PricedVersion, tier: str, limits: LimitSet) -> journal.Blank:
    """What the entries of calls with one key at one service have in common."""
    lineage = grant.limits.lineage
    entry = journal.Entry(
        request_id=uuid.UUID(int=0),
        consumer_id=grant.consumer_id,
        service_id=offer.id,
        api_key_id=grant.api_key_id,
        price_version_id=price.id,
        tier=tier,
        currency=price.price.currency,
        status="unsettled",
        limit=limits.tokens_per_month,
        key_lineage=lineage if lineage != grant.api_key_id else None,
    )
    return journal.Blank(entry)


def unsettled_entry(call: Call, terms: Terms, request: PaidRequest) -> journal.Entry:
    """The entry for the case that this gateway dies: at zero cost, for a late settle or a person to decide."""
    metadata = request.metadata
    if metadata is None:
        return terms.blank.entry(call.request_id)
    return terms.blank.entry(call.request_id, msgspec.Raw(msgspec.json.encode(metadata)))


def settled_entry(
    entry: journal.Entry,
    reply: Reply,
    cost: Decimal,
    duration_ms: int,
    *,
    status: journal.Status = "success",
    error: str | None = None,
    upstream_cost: str | None = None,
) -> journal.Entry:
    """The entry of a call that was served, or of what was delivered of one that broke off."""
    tokens = reply.tokens
    return msgspec.structs.replace(
        entry,
        status=status,
        error=error,
        duration_ms=duration_ms,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cached_tokens=tokens.cached,
        reasoning_tokens=tokens.reasoning,
        cache_write_tokens=tokens.cache_write,
        audio_prompt_tokens=tokens.audio_prompt,
        audio_completion_tokens=tokens.audio_completion,
        usage_source=reply.usage_source,
        cost=plain(cost),
        upstream_cost=upstream_cost,
    )


def failed_entry(
    entry: journal.Entry, code: str, duration_ms: int, *, status: journal.Status = "error"
) -> journal.Entry:
    """The entry of a call that brought nothing: on record, at no cost."""
    return msgspec.structs.replace(
        entry, status=status, duration_ms=duration_ms, error=code, cost=plain(ZERO)
    )


class Settlement:
    """The open leases of this gateway, and the way their calls end."""

    def __init__(self, admission: Admission, spool: Spool, local: LocalMode) -> None:
        self._admission = admission
        self._spool = spool
        self._local = local
        self._retained = spool.retained
        #: What each asked for, what it was let in with, and who makes it: nobody any more once it is being settled.
        self._open: dict[uuid.UUID, tuple[Ask, Lease, asyncio.Task[object] | None]] = {}
        self._lost: set[uuid.UUID] = set()
        #: Set while no call is open.
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def open_calls(self) -> int:
        """Calls let in and not yet settled."""
        return len(self._open)

    @property
    def oldest_open(self) -> uuid.UUID | None:
        """The oldest call let in and not yet settled."""
        return min(self._open, default=None)

    def opened(self, lease: Lease, ask: Ask) -> None:
        """A call was let in; its lease is renewed until ``settle``."""
        self._open[lease.request_id] = (ask, lease, asyncio.current_task())
        self.idle.clear()

    def running(self) -> dict[uuid.UUID, tuple[Ask, Lease]]:
        """The calls that have a lease and are not being settled yet."""
        return {
            id_: (ask, lease)
            for id_, (ask, lease, task) in self._open.items()
            if task is not None and id_ not in self._local.calls
        }

    def settling(self, of: Collection[int]) -> set[uuid.UUID]:
        """The calls of these shards that are being settled."""
        return {id_ for id_, (_, lease, task) in self._open.items() if task is None and lease.shard in of}

    def is_open(self, request_id: uuid.UUID) -> bool:
        """Whether a call was let in and is not settled yet."""
        return request_id in self._open

    def cut(self) -> None:
        """End the calls that still run. They settle what they gave: ``idle`` tells when they have."""
        for _, _, task in self._open.values():
            if task is not None:
                task.cancel()

    async def release(self, lease: Lease) -> None:
        """End a call that never left for the upstream: it consumes no quota and leaves no record."""
        self._closed(lease.request_id)
        if lease.request_id in self._local.calls:
            await self._local.release(lease.request_id)
        else:
            await self._admission.release(lease)

    def lost(self, request_id: uuid.UUID) -> bool:
        """Whether the call was cut because its lease had ended."""
        return request_id in self._lost

    async def settle(self, entry: journal.Entry, *, shard: int, ready: Ready | None = None) -> None:
        """Put the entry where it cannot be lost: in the journal, else fsynced on the local disk.

        Raises ``Unavailable`` where neither worked; the entry is still being handed in from memory.
        """
        encoded = journal.encode(entry)
        if self._local.calls and entry.request_id in self._local.calls:
            await self._settle_locally(entry, encoded)
            return
        epoch = self._admission.known_epoch(shard)
        found = self._open.get(entry.request_id)
        if found is not None:
            self._open[entry.request_id] = (*found[:2], None)  # what is being settled is cut by nobody
        try:
            stream_id = await self._admission.settle(entry, encoded, ready=ready)
            self._retained.add(shard, epoch, stream_id, encoded)
        except (LineError, hiredis.ReplyError) as error:
            log.warning("settle: %s, spooling", type(error).__name__)
            await self._keep(encoded, epoch, append=False)
        except StaleEpoch:
            await self._keep(encoded, epoch, append=True)
        except asyncio.CancelledError:
            # Whoever waited has gone; whether it was settled is not known, and what was used is owed all the same.
            await self._keep(encoded, epoch, append=False)
            raise
        finally:
            self._closed(entry.request_id)

    async def _settle_locally(self, entry: journal.Entry, encoded: bytes) -> None:
        try:
            await self._local.settle(entry, encoded)
        finally:
            self._closed(entry.request_id)

    def _closed(self, request_id: uuid.UUID) -> None:
        self._open.pop(request_id, None)
        if self._lost:
            self._lost.discard(request_id)
        if not self._open:
            self.idle.set()

    async def _keep(self, encoded: bytes, epoch: str, *, append: bool) -> None:
        try:
            await self._spool.keep(encoded, epoch=epoch, append=append)
        except OSError as error:
            log.critical("neither Valkey nor the spool takes a settled call: %s", error.strerror)
            raise Unavailable(retry_after=5) from error

    async def keep_renewing(self) -> None:
        """Renew all open leases, one call a shard, until cancelled; calls whose lease is gone are cut."""
        while True:
            await asyncio.sleep(RENEW_EVERY_SECONDS)
            by_shard: dict[int, list[uuid.UUID]] = defaultdict(list)
            for request_id, (_, lease, _) in self._open.items():
                if request_id in self._local.calls:
                    continue  # it has none
                by_shard[lease.shard].append(request_id)
            for shard, request_ids in by_shard.items():
                await self._renew(shard, request_ids)

    async def _renew(self, shard: int, request_ids: list[uuid.UUID]) -> None:
        try:
            gone = await self._admission.renew(shard, request_ids)
        except (LineError, StaleEpoch, hiredis.ReplyError) as error:
            log.warning("leases not renewed: %s", type(error).__name__)
            return
        for request_id in gone:
            found = self._open.get(request_id)
            if found is not None and (task := found[2]) is not None:
                log.warning("a lease is gone, its call is cut")
                self._lost.add(request_id)
                task.cancel()
