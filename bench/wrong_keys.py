"""What 2,000 wrong keys a second do to a caller with a good one, on the same core."""

import asyncio
import random
import string
import zlib

import uvloop

from bench.calls import PATH, body_of, request
from bench.open_loop import Latencies, OpenLoop, no_garbage_collection

WRONG_PER_SECOND, GOOD_PER_SECOND = 2000.0, 200.0
WRONG_KEYS = 500
# Who guesses long enough from one address may be told to wait.
REFUSED = frozenset({401, 429})
CRC_LENGTH, TAG_LENGTH, SECRET_LENGTH = 8, 17, 43
LETTERS = string.ascii_letters + string.digits


def forged(key: str) -> str:
    """The key's form, id, tag and a right checksum, with another secret: what a guesser would send."""
    secret = "".join(random.choices(LETTERS, k=SECRET_LENGTH))  # noqa: S311 - to be refused  # nosec B311
    tagged = key[:-CRC_LENGTH]
    changed = tagged[: -TAG_LENGTH - SECRET_LENGTH] + secret + tagged[-TAG_LENGTH:]
    return changed + f"{zlib.crc32(changed.encode()):08x}"


def wrong_requests(calls: list[tuple[str, str]]) -> list[bytes]:
    return [
        request(PATH, {"Authorization": f"Bearer {forged(key)}"}, body_of(model))
        for key, model in calls[:WRONG_KEYS]
    ]


async def _run(port: int, good: list[bytes], wrong: list[bytes], seconds: float) -> Latencies:
    measured = OpenLoop(good, rate=GOOD_PER_SECOND, seconds=seconds)
    if not wrong:
        return await measured.run(port)
    disturbing = OpenLoop(wrong, rate=WRONG_PER_SECOND, seconds=seconds, accept=REFUSED)
    found, _ = await asyncio.gather(measured.run(port), disturbing.run(port))
    return found


def good_key_latency(port: int, good: list[bytes], wrong: list[bytes], *, seconds: float) -> Latencies:
    """Of calls with good keys, while those with wrong ones come too (none where the list is empty)."""
    with no_garbage_collection():
        return uvloop.run(_run(port, good, wrong, seconds))
