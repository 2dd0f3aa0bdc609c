"""One call on its way through the gateway."""

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from catalog.snapshot import Limits, Offer, PricedVersion
from common.ids import uuid7
from consumption import metrics
from keys.grants import Grant

if TYPE_CHECKING:
    from consumption.dialects.base import Dialect


@dataclass(slots=True)
class Call:
    """What came in, from whichever transport and in whichever dialect.

    ``key``: the presented API key, or None; ``address``: the client's; ``service_id``: from the path, where the
    dialect has it there.
    """

    dialect: "Dialect"
    key: str | None
    address: str
    service_id: str = ""
    body: bytes = b""
    request_id: uuid.UUID = field(default_factory=uuid7)
    started: float = field(default_factory=time.perf_counter)
    _lap_began: float = 0.0

    def lap(self, step: str) -> None:
        """A step has ended: its time goes into the histogram."""
        now = time.perf_counter()
        metrics.STEP_DURATION.observe((step,), now - (self._lap_began or self.started))
        self._lap_began = now

    @property
    def elapsed_ms(self) -> int:
        """Whole milliseconds since the call came in."""
        return int((time.perf_counter() - self.started) * 1000)


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a call whatever changes meanwhile."""

    grant: Grant
    offer: Offer
    price: PricedVersion
    tier: str
    limits: Limits
