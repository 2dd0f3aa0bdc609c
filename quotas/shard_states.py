"""How shards stand, as Valkey says it of many at once."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from metering import shards
from quotas.line import Line, LineError


class State(NamedTuple):
    """One shard. ``epoch``: the one that is live on the server that answered, or, where ``is_opening``, the one that is
    to come; empty where there is neither. ``watermark``: as the drain published it."""

    shard: int
    epoch: str
    is_opening: bool
    watermark: str


async def read(line: Line, of: Sequence[int]) -> list[State]:
    """The states of shards that the line reaches, asked in one write. Raises as ``Line.setup_call`` does."""
    calls = [
        line.setup_call(
            ("MGET", shards.epoch_key(shard), shards.opening_key(shard), shards.watermark_key(shard))
        )
        for shard in of
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    return [_state(line.life, shard, answer) for shard, answer in zip(of, answers, strict=True)]


def epoch_of(life: str, live: bytes | None, opening: bytes | None) -> str:
    """The epoch of a shard of a server, of what its two keys say; empty where they are of another life of it."""
    if opening is not None:
        return f"{opening.decode()}:{life}"
    epoch = (live or b"").decode()
    return epoch if epoch.endswith(f":{life}") else ""


def _state(life: str, shard: int, answer: list[bytes | None] | BaseException) -> State:
    if isinstance(answer, LineError):
        raise answer
    if isinstance(answer, BaseException):  # the server says that it is not its own
        return State(shard, "", False, "")
    live, opening, watermark = answer
    return State(shard, epoch_of(life, live, opening), opening is not None, (watermark or b"").decode())
