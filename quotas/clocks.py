"""By how much a server's clock is ahead of this process's."""

from common import clock
from quotas.line import Line

#: How often a connection compares its clock with the server's.
_TRIES = 5


async def offset_ms(line: Line) -> int:
    """Half of a round trip is what the offset may be wrong by, so the shortest of a few is believed.

    One that a busy start has stretched to 200 ms would have every call refused as late until the next connect.
    """
    return min([await _compare(line) for _ in range(_TRIES)])[1]


async def _compare(line: Line) -> tuple[int, int]:
    """Milliseconds: of the round trip, and by which the server's clock is ahead."""
    before = clock.now_ms()
    seconds, micros = await line.setup_call(("TIME",))
    after = clock.now_ms()
    return after - before, int(seconds) * 1000 + int(micros) // 1000 - (before + after) // 2
