"""What gateways tell the console of endpoints that they do not call: one key a gateway, gone when it stops telling."""

import asyncio
import contextlib
import logging
from typing import cast

import hiredis
import msgspec

from consumption.routing import Router, Trouble
from metering import valkey
from quotas.line import LineError, Lines

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
#: A gateway that has told nothing for so long is gone, and what it knew with it.
KEPT_SECONDS = 5
#: Names of the gateways that told something, since the whole of a Valkey must not be searched for their keys.
GATEWAYS = "marketplace:breakers"
#: Of that list, after the last of them has spoken.
GATEWAYS_KEPT_SECONDS = 3600

#: Troubles by the endpoint's id.
Troubles = dict[str, Trouble]

_decoder = msgspec.json.Decoder(Troubles)


def key_of(gateway: str) -> str:
    """Where a gateway's troubles are: JSON, by the endpoint's id."""
    return f"{GATEWAYS}:{gateway}"


class TroubleTeller:
    """Tells of one gateway's endpoints while any of them is in trouble."""

    def __init__(self, router: Router, line: Lines, gateway: str) -> None:
        self._router = router
        self._line = line
        self._gateway = gateway
        self._told = False

    async def keep_telling(self) -> None:
        """Once a second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                await self.tell()
            except (LineError, hiredis.ReplyError) as error:
                log.debug("troubles not told: %s", type(error).__name__)

    async def tell(self) -> None:
        """Say what there is; once that it is over; after that nothing. Raises what the line does."""
        troubles = self._router.troubles()
        if troubles:
            self._told = True
            told = msgspec.json.encode(troubles)
            await self._line.call(("SET", key_of(self._gateway), told, "EX", KEPT_SECONDS), timeout=1.0)
            await self._line.call(("SADD", GATEWAYS, self._gateway), timeout=1.0)
            await self._line.call(("EXPIRE", GATEWAYS, GATEWAYS_KEPT_SECONDS), timeout=1.0)
        elif self._told:
            await self._line.call(("DEL", key_of(self._gateway)), timeout=1.0)
            self._told = False


def read_troubles() -> dict[str, Troubles]:
    """What every gateway tells now, by its name; those without troubles are not there. Raises ``redis.RedisError``."""
    with contextlib.closing(valkey.connect()) as client:
        gateways = sorted(name.decode() for name in cast("set[bytes]", client.smembers(GATEWAYS)))
        # One by one: on a cluster they lie apart.
        told = {gateway: cast("bytes | None", client.get(key_of(gateway))) for gateway in gateways}
    return {gateway: _decoder.decode(text) for gateway, text in told.items() if text is not None}
