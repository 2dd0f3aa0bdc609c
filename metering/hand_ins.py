"""Waiting for gateways that have to hand in before shards are opened (``consumption.hand_in``).

A gateway says in Valkey that it has, shard by shard, for the very number that ``epochs.begin`` left there: so what is
said and what was handed in live and die together.
"""

import logging
import time
from collections.abc import Iterable

from common import clock
from metering import gateways, shards
from metering.valkey import OneLife

log = logging.getLogger(__name__)

#: How long a gateway that says nothing is waited for, seconds; and how long after that it is not waited for again.
PATIENCE = 5.0
FORGIVEN_AFTER = 60.0
_PAUSE = 0.01


class HandIns:
    """Whom openings wait for: gateways on the register that neither ended nor fell silent before."""

    def __init__(self) -> None:
        self._passed_over: dict[str, float] = {}

    def wait(self, server: OneLife, opening: Iterable[int]) -> None:
        """Returns once every gateway has handed in for all of these shards, which are closed."""
        missing = self._expected()
        deadline = time.monotonic() + PATIENCE
        while missing:
            missing -= _handed_in(server, opening)
            if not missing:
                return
            if time.monotonic() > deadline:
                log.warning("opened without %d gateways that did not hand in", len(missing))
                self._passed_over |= dict.fromkeys(missing, time.monotonic())
                return
            time.sleep(_PAUSE)

    def _expected(self) -> set[str]:
        heard_since = clock.now() - gateways.SILENT_AFTER
        now = time.monotonic()
        return {
            gateway.id
            for gateway in gateways.expected()
            if not gateway.is_silent(heard_since)
            and now - self._passed_over.get(gateway.id, now - FORGIVEN_AFTER) >= FORGIVEN_AFTER
        }


def _handed_in(server: OneLife, opening: Iterable[int]) -> set[str]:
    """The gateways that have, for every one of the shards."""
    pipeline = server.client.pipeline(transaction=False)
    for shard in opening:
        pipeline.smembers(shards.handed_in_key(shard))
    found: list[set[bytes]] = pipeline.execute()
    return {name.decode() for name in set.intersection(*map(set, found))}
