"""One call on its way through the gateway."""

import uuid
from bisect import bisect_left
from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING

import msgspec

from catalog.snapshot import Endpoint, Offer, PricedVersion
from common.ids import text, uuid7
from consumption import metrics
from keys.grants import Grant
from metering.journal import Blank
from quotas.commands import Ready
from quotas.limits import LimitSet
from quotas.refusals import Rate

if TYPE_CHECKING:
    from consumption.dialects.base import Dialect
    from consumption.protocols.base import Exchange

AUTHENTICATE, RESOLVE, POLICY, ADMIT, CLAIM, ROUTE, PRICE, SETTLE = map(
    metrics.STEP_DURATION.of,
    ("authenticate", "resolve", "policy", "admit", "claim", "route", "price", "settle"),
)


class Call:
    """What came in, from whichever transport and in whichever dialect.

    ``key``: the presented API key, or None; ``address``: the client's; ``service_id``: from the path, where the
    dialect has it there; ``idempotency_key``: as it came, None where there is none. ``id`` is ``request_id`` as text.
    ``rate``: its bucket of requests, once limits were asked. ``betas``: what the caller wants of Anthropic's protocol
    before it is everybody's, as it came.
    """

    __slots__ = (
        "_lap_began", "address", "betas", "body", "dialect", "id", "idempotency_key", "key", "rate", "request_id",
        "service_id", "started",
    )  # fmt: skip

    def __init__(
        self,
        dialect: "Dialect",
        key: str | None,
        address: str,
        service_id: str = "",
        body: bytes = b"",
        idempotency_key: str | None = None,
        betas: str = "",
    ) -> None:
        self.dialect = dialect
        self.key = key
        self.address = address
        self.service_id = service_id
        self.body = body
        self.idempotency_key = idempotency_key
        self.betas = betas
        self.rate: Rate | None = None
        self.request_id: uuid.UUID = uuid7()
        self.id = text(self.request_id)
        self.started = self._lap_began = perf_counter()

    def lap(self, step: metrics.Timing) -> None:
        """A step has ended: its time goes into the histogram."""
        now = perf_counter()
        seconds = now - self._lap_began
        self._lap_began = now
        # ``Timing.observe``, without the call: there are seven of them in one call.
        step.counts[bisect_left(step.bounds, seconds)] += 1
        step.sum += seconds

    @property
    def elapsed_ms(self) -> int:
        """Whole milliseconds since the call came in."""
        return int((perf_counter() - self.started) * 1000)


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What holds for a call whatever changes meanwhile."""

    grant: Grant
    offer: Offer
    price: PricedVersion
    tier: str
    limits: LimitSet
    ready: Ready
    blank: Blank
    #: Whether this gateway holds a share of the quota, for local mode.
    shared: bool = False


class Routing(msgspec.Struct, frozen=True, gc=False):
    """Where a call may go, in its order, and how it is said to upstreams of each protocol among them."""

    endpoints: tuple[Endpoint, ...]
    exchanges: "Mapping[str, Exchange]"
