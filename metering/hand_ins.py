"""Waiting for gateways that have to hand in before shards are opened (``consumption.hand_in``).

A gateway says in Valkey that it has, shard by shard, for the very number that ``epochs.begin`` left there: so what is
said and what was handed in live and die together.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any

from common import clock
from metering import gateways, shards
from metering.valkey import OneLife

log = logging.getLogger(__name__)

#: Seconds for which nothing may come in, and openings that take longer than this are not waited for either; whoever was
#: waited for in vain is not waited for again for a while.
PATIENCE = 5.0
LONGEST = 60.0
FORGIVEN_AFTER = 60.0
_PAUSE = 0.01


class HandIns:
    """Whom openings wait for: gateways on the register that neither ended nor fell silent before."""

    def __init__(self) -> None:
        self._passed_over: dict[str, float] = {}

    def wait(self, server: OneLife, opening: Iterable[int]) -> None:
        """Returns once every gateway has handed in for all of these shards, which are closed."""
        missing = self._expected()
        begun = heard_at = time.monotonic()
        heard = 0
        while missing:
            done, came = _handed_in(server, opening)
            missing -= done
            if not missing:
                return
            now = time.monotonic()
            if came != heard:
                heard, heard_at = came, now
            if now - heard_at > PATIENCE or now - begun > LONGEST:
                log.warning("opened without %d gateways that did not hand in", len(missing))
                self._passed_over |= dict.fromkeys(missing, now)
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


def _handed_in(server: OneLife, opening: Iterable[int]) -> tuple[set[str], int]:
    """The gateways that have, for every one of the shards; and how much came in so far, from any of them."""
    pipeline = server.client.pipeline(transaction=False)
    for shard in opening:
        pipeline.smembers(shards.handed_in_key(shard))
        pipeline.xlen(shards.journal_key(shard))
    answers: list[Any] = pipeline.execute()
    done = set.intersection(*map(set, answers[::2]))
    return {name.decode() for name in done}, sum(map(len, answers[::2])) + sum(answers[1::2])
