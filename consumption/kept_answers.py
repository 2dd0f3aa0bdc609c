"""Answers of calls that carried an Idempotency-Key: in Valkey, sealed, bounded, for 24 hours."""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from weakref import WeakKeyDictionary

import hiredis
import msgspec

from common.errors import Unavailable
from common.sealing import Unsealable, seal, unseal
from consumption.dialects.base import Answer
from consumption.models import KEPT
from metering import shards
from quotas.line import Line, LineError, Lines

log = logging.getLogger(__name__)

#: Beyond this part of Valkey's memory nothing more is kept: limits and journal live there too.
MOST_MEMORY = 0.5
#: How long Valkey may take with an answer: it is larger than what scripts carry, and nobody's limit waits for it.
SECONDS = 0.5
LARGE_BYTES = 32 * 1024
#: All names, as Valkey matches them.
NAMES = "*:idem:*"
#: Of the first answer's moment, and wrong in a later one.
_NOT_KEPT = ("ratelimit-", "retry-after")


class _Kept(msgspec.Struct, array_like=True):
    """``request_id`` binds it to its name: what was kept for one call never answers another."""

    request_id: str
    status: int
    headers: list[tuple[str, str]]
    body: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Kept).decode


class KeptAnswers:
    """The answers of all gateways, reached over the gateway's lines. Bodies of up to ``most_bytes`` are kept."""

    def __init__(self, line: Lines, *, most_bytes: int) -> None:
        self._line = line
        self.most_bytes = most_bytes
        self._room: WeakKeyDictionary[Line, tuple[float, bool]] = WeakKeyDictionary()

    async def keep(self, consumer_id: uuid.UUID, request_id: uuid.UUID, answer: Answer) -> None:
        """Keep an answer. Where that fails it is not kept, and the call goes on."""
        headers = [(name, value) for name, value in answer.headers if not name.startswith(_NOT_KEPT)]
        kept = _Kept(str(request_id), answer.status, headers, answer.body)
        try:
            if not await self._has_room(self._line.by_shard[shards.shard_of(consumer_id)]):
                log.warning("an answer is not kept: Valkey's memory is for limits and journal")
                return
            sealed = await _aside(seal, _encode(kept))
            await self._line.call(
                ("SET", _name(consumer_id, request_id), sealed, "EX", int(KEPT.total_seconds())),
                timeout=SECONDS,
            )
        except (LineError, hiredis.ReplyError) as error:
            log.warning("an answer is not kept: %s", type(error).__name__)

    async def find(self, consumer_id: uuid.UUID, request_id: uuid.UUID) -> Answer | None:
        """The answer that was kept for a call. Raises ``Unavailable`` where Valkey does not say."""
        try:
            sealed = await self._line.call(("GET", _name(consumer_id, request_id)), timeout=SECONDS)
        except (LineError, hiredis.ReplyError) as error:
            raise Unavailable(retry_after=1) from error
        if sealed is None:
            return None
        try:
            kept = _decode(await _aside(unseal, sealed))
        except (Unsealable, msgspec.MsgspecError) as error:
            log.warning("a kept answer cannot be read: %s", type(error).__name__)
            return None
        if kept.request_id != str(request_id):
            return None
        return Answer(kept.status, kept.headers, kept.body)

    async def _has_room(self, line: Line) -> bool:
        now = time.monotonic()
        looked_at, room = self._room.get(line, (0.0, False))
        if now - looked_at > 1.0:
            info = await line.call(("INFO", "memory"), timeout=SECONDS)
            fields = dict(row.split(b":", 1) for row in info.splitlines() if b":" in row)
            most = int(fields[b"maxmemory"])
            room = not most or int(fields[b"used_memory"]) < MOST_MEMORY * most
            self._room[line] = now, room
        return room


async def _aside(work: Callable[[bytes], bytes], data: bytes) -> bytes:
    """Seal or unseal; what takes milliseconds (256 KB: three and more) does not hold up other calls."""
    return work(data) if len(data) < LARGE_BYTES else await asyncio.to_thread(work, data)


def _name(consumer_id: uuid.UUID, request_id: uuid.UUID) -> str:
    return f"{shards.tag(shards.shard_of(consumer_id))}:idem:{request_id}"
