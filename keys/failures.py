"""How often a secret may be guessed, by address and by key id, before Argon2 is asked no more.

Only failures count, so whoever has good keys is never held up by their own; and what is proven already never comes
here, so nobody locks a known key out by guessing at its id.
"""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from time import monotonic

from django.conf import settings

from common.networks import parse_address
from keys.errors import TooManyFailures

#: Addresses and ids remembered at most, each; the one that failed longest ago is forgotten first.
MOST_BUCKETS = 20_000


@dataclass(slots=True)
class Buckets:
    """Leaky buckets of failures: ``size`` at once, then ``rate`` a second. Made when first needed."""

    size: float
    rate: float
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def seconds_until_free(self, name: str, now: float) -> float:
        """0 where one more failure fits."""
        return max(0.0, (self._level(name, now) + 1 - self.size) / self.rate)

    def add(self, name: str, now: float) -> None:
        self._levels[name] = (self._level(name, now) + 1, now)
        self._levels.move_to_end(name)
        if len(self._levels) > MOST_BUCKETS:
            self._levels.popitem(last=False)

    def _level(self, name: str, now: float) -> float:
        level, at = self._levels.get(name, (0.0, now))
        return max(0.0, level - (now - at) * self.rate)


class Failures:
    """The failures of one process. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._addresses = Buckets(size=50, rate=1.0)
        self._ids = Buckets(size=20, rate=0.2)

    def check(self, address: str, public_id: str) -> None:
        """Raises ``TooManyFailures`` where no further failure fits."""
        if not settings.KEY_FAILURE_BUCKETS:
            return
        now = monotonic()
        with self._lock:
            wait = max(
                self._addresses.seconds_until_free(_household(address), now),
                self._ids.seconds_until_free(public_id, now),
            )
        if wait:
            raise TooManyFailures(retry_after=math.ceil(wait))

    def count(self, address: str, public_id: str) -> None:
        """One more failure."""
        now = monotonic()
        with self._lock:
            self._addresses.add(_household(address), now)
            self._ids.add(public_id, now)


def _household(address: str) -> str:
    """An IPv6 client has a whole /64 to choose from."""
    parsed = parse_address(address)
    if parsed is None or parsed.version == 4:
        return address
    return parsed.exploded[:19]
