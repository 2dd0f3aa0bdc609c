"""Shares of quotas that a gateway holds in advance, for the time when it can ask nobody.

A share is reserved in Valkey like a running call, so whoever serves out of one overspends nothing, whatever the others
do meanwhile. It exists for consumers that call a service in local mode, is as large as their remainder divided by
the number of gateways allowed, and follows the remainder. Where running calls and shares together leave
no room, shares go first, for a minute, in every gateway.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field

import hiredis

from common import clock
from common.ids import uuid7
from quotas import commands
from quotas.admission import Admission, StaleEpoch
from quotas.leases import of_tokens
from quotas.line import LineError
from quotas.names import Period, Periods

log = logging.getLogger(__name__)

#: A share lives for so long without word from its gateway. So long can an outage be served.
SHARE_MS = 15 * 60 * 1000
#: A share is asked about so often; where a quarter of the quota is free, less often.
REFRESH_SECONDS, EASY_SECONDS = 1.0, 5.0
#: A share that no call asked for lately is given back.
UNUSED_SECONDS = 60.0
#: How long no share grows where a call found no room.
CROWDED_MS = 60_000
#: Shares that are asked about at the same time.
_AT_ONCE = 200


@dataclass(slots=True, eq=False)
class Share:
    """A share of one consumer's quota at a service. ``size``: what Valkey holds of it at least.

    ``out``: tokens of it that calls were given whose usage Valkey does not have yet.
    """

    ready: commands.Ready
    period: Period
    id: uuid.UUID = field(default_factory=uuid7)
    size: int = 0
    out: int = 0
    seen_at: float = 0.0
    #: Where, and until when, Valkey holds it.
    epoch: str = ""
    until: float = 0.0
    #: What nobody used or holds, when it was last asked for.
    besides: int | None = None
    asked_at: float = 0.0
    crowded: bool = False

    @property
    def left(self) -> int:
        return self.size - self.out

    def lent(self, tokens: int) -> None:
        """Valkey knows of a call's tokens now, and holds them apart."""
        self.out -= tokens
        self.size = max(self.out, self.size - tokens)


class Shares:
    """The shares of one gateway. ``gateways``: how many there may be."""

    def __init__(self, admission: Admission, *, gateways: int) -> None:
        self.gateways = gateways
        self._admission = admission
        self._shares: dict[str, Share] = {}
        self._seen: dict[str, commands.Ready] = {}
        self._crowded: dict[str, commands.Ready] = {}
        self._periods = Periods()
        self._wake = asyncio.Event()

    def seen(self, ready: commands.Ready) -> None:
        """A call was let in that could be let in from a share, too."""
        self._seen[ready.names.quota] = ready

    def crowded(self, ready: commands.Ready) -> None:
        """A call was refused for want of room. It is told to come back in a second."""
        self._crowded[ready.names.quota] = ready
        self._wake.set()

    def find(self, ready: commands.Ready, at_ms: int) -> Share | None:
        """The share, while Valkey is known to hold it."""
        share = self._shares.get(ready.names.quota + self._periods.of(at_ms).month)
        if share is None or time.monotonic() > share.until:
            return None
        return share if share.epoch == self._admission.known_epoch(ready.names.shard) else None

    @property
    def any_held(self) -> bool:
        now = time.monotonic()
        return any(share.left > 0 and share.until > now for share in self._shares.values())

    async def keep_refreshing(self) -> None:
        """``refresh`` until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), REFRESH_SECONDS)
            self._wake.clear()
            await self.refresh()

    async def refresh(self) -> None:
        """Have Valkey hold what this gateway may need, and no more."""
        now, period = time.monotonic(), self._periods.of(clock.now_ms())
        seen, self._seen = self._seen, {}
        crowded, self._crowded = self._crowded, {}
        for quota, ready in (seen | crowded).items():
            share = self._shares.setdefault(quota + period.month, Share(ready, period))
            share.ready, share.seen_at = ready, now
        shares = [share for share in self._shares.values() if self._is_due(share, now, crowded)]
        for first in range(0, len(shares), _AT_ONCE):
            some = shares[first : first + _AT_ONCE]
            await asyncio.gather(
                *(self._follow(share, now, share.ready.names.quota in crowded) for share in some)
            )
        for name in [name for name, share in self._shares.items() if self._is_unused(share, now)]:
            if not self._shares[name].size and not self._shares[name].out:
                del self._shares[name]

    def _is_due(self, share: Share, now: float, crowded: Collection[str]) -> bool:
        limit = share.ready.limits.tokens_per_month or 0
        if share.besides is None or share.besides * 4 < limit or share.ready.names.quota in crowded:
            return True
        return now - share.asked_at >= EASY_SECONDS

    def _is_unused(self, share: Share, now: float) -> bool:
        over = share.period.month != self._periods.of(clock.now_ms()).month
        return over or now - share.seen_at > UNUSED_SECONDS

    async def _follow(self, share: Share, now: float, is_crowded: bool) -> None:
        crowded_ms = CROWDED_MS if is_crowded else 0
        if share.out:  # as it is, until Valkey knows of all of them
            await self._resize(share, share.size, crowded_ms)
        elif is_crowded or (share.crowded and share.size) or self._is_unused(share, now):
            await self._resize(share, 0, crowded_ms)
        else:
            await self._resize(share, self._wanted(share), 0)

    def _wanted(self, share: Share) -> int:
        limit = share.ready.limits.tokens_per_month or 0
        if share.besides is None:
            return limit
        part = max(0, (share.besides + share.size) // self.gateways)
        return part if part < share.size else limit

    async def _resize(self, share: Share, wanted: int, crowded_ms: int) -> None:
        names = share.ready.names
        share.asked_at = asked_at = time.monotonic()
        # Before it is asked: whatever becomes of the question, Valkey does not hold less.
        share.size = min(share.size, wanted)
        quota = names.quota + share.period.month
        try:
            epoch = self._admission.epoch(names.shard)
            answer = await self._admission.run(
                names.shard,
                commands.SHARE,
                (names.epoch, names.leases, quota),
                (
                    epoch, str(share.id), wanted, share.ready.limits.tokens_per_month or 0, self.gateways, SHARE_MS,
                    of_tokens(self._admission.gateway, quota), share.period.month_expires, crowded_ms,
                ),
            )  # fmt: skip
        except (LineError, StaleEpoch, hiredis.ReplyError) as error:
            log.debug("a share is as it was: %s", type(error).__name__)
            return
        share.size, share.besides, share.crowded = answer[0], answer[1], bool(answer[2])
        share.epoch, share.until = epoch, asked_at + SHARE_MS / 1000

    async def give_back(self) -> None:
        """For a gateway that stops. What calls still have out of a share stays held until it runs out."""
        shares = [share for share in self._shares.values() if not share.out]
        await asyncio.gather(*(self._resize(share, 0, 0) for share in shares))
