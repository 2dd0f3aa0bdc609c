"""What this gateway settled and PostgreSQL may not have yet: if Valkey loses it, it is handed in again from here.

A settled call is let go of when the drain's watermark has passed it in the very epoch in which it was journalled. Where
its shard has another epoch by then, whatever became of the data, it is appended again; the ledger takes each request
once. See ``docs/settlement.md``.

Beyond so many bytes the oldest go to files in the gateway's slot (``consumption.retained_files``), fsynced, and so does
all that is left when it stops: the slot's next owner goes on with them.
"""

import asyncio
import logging
import math
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice, takewhile

import hiredis

from consumption.retained_files import RetainedFiles, Settled, id_of
from metering import shards
from metering.stream import order
from quotas.line import LineError

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 2**20
#: What a call takes in memory besides its entry: a tuple, the stream id, and its place in the queue.
OVERHEAD_BYTES = 190
#: Of one file, about.
FILE_BYTES = 4 * 2**20
#: Appends of one shard that are under way at the same time.
AT_ONCE = 32

#: Journals an entry of a shard; returns the epoch that it came into, and its stream id.
Append = Callable[[int, bytes], Awaitable[tuple[str, str]]]


class Retained:
    """The settled calls of one gateway. Use from one event loop only.

    ``add`` may be called at any time; ``passed`` and what is awaited are for one task.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        #: In memory.
        self.bytes = 0
        self.files = RetainedFiles()
        self._held: list[deque[Settled]] = [deque() for _ in range(shards.SHARDS)]

    def add(self, shard: int, epoch: str, stream_id: str, encoded: bytes) -> None:
        """A call is in the journal of a shard. Every call comes by here, so it does next to nothing."""
        self._held[shard].append((epoch, stream_id, encoded))
        self.bytes += size_of(encoded)

    @property
    def in_memory(self) -> int:
        """How many are held in memory."""
        return sum(map(len, self._held))

    def __len__(self) -> int:
        return self.in_memory + self.files.records

    @property
    def shards(self) -> set[int]:
        """The shards of which anything is held."""
        return self.files.shards | {shard for shard, held in enumerate(self._held) if held}

    @property
    def oldest(self) -> uuid.UUID | None:
        """The call that began first, of those that are held."""
        ids = [id_of(encoded) for held in self._held for _, _, encoded in held]
        ids += self.files.oldest
        return uuid.UUID(min(ids).decode()) if ids else None

    def passed(self, shard: int, watermark: str) -> None:
        """PostgreSQL has all of a shard up to a watermark, ``n:stream id``."""
        number, _, last_id = watermark.partition(":")
        if not last_id:
            return
        last = order(last_id)
        held, known = self._held[shard], None
        while held:
            epoch, stream_id, _ = held[0]
            if epoch is not known:
                if not epoch.startswith(f"{number}:"):
                    break
                known = epoch
            if not _is_earlier(stream_id, last_id) and order(stream_id) > last:
                break
            self._let_go(held)
        self.files.passed(shard, number, last)

    def _let_go(self, held: deque[Settled]) -> None:
        self.bytes -= size_of(held.popleft()[2])

    # -- handing in ----------------------------------------------------------------------------------------------

    def elsewhere(self, epochs: Mapping[int, str]) -> dict[int, str]:
        """Which of these shards have calls that were journalled in another epoch than theirs."""
        of_files = self.files.shards_elsewhere(epochs)
        # The first tells: those behind it come to the front as the watermark moves.
        return {
            shard: epoch
            for shard, epoch in epochs.items()
            if shard in of_files or (self._held[shard] and self._held[shard][0][0] != epoch)
        }

    async def hand_in(self, epochs: Mapping[int, str], append: Append) -> set[int]:
        """Journal again what these shards had in other epochs than theirs; returns those of which not all was."""
        failed = await self._each(epochs, lambda shard: self._hand_in(shard, epochs[shard], append))
        for file in self.files.elsewhere(epochs):
            found = await asyncio.to_thread(file.read, epochs)
            of_file = await self._each(found, partial(self._append_all, found, append))
            self.files.handed_in(file, {shard: epochs[shard] for shard in epochs if shard not in of_file})
            failed |= of_file
            await self.bound()
        return failed

    @staticmethod
    async def _each(of: Iterable[int], work: Callable[[int], Awaitable[bool]]) -> set[int]:
        asked = list(of)
        done = await asyncio.gather(*map(work, asked))
        return {shard for shard, is_done in zip(asked, done, strict=True) if not is_done}

    async def _hand_in(self, shard: int, epoch: str, append: Append) -> bool:
        """In the order in which they are held, and held until they are journalled again."""
        held = self._held[shard]
        left = sum(each[0] != epoch for each in held)
        while left:
            held.rotate(-next(n for n, each in enumerate(held) if each[0] != epoch))
            some = list(takewhile(lambda each: each[0] != epoch, islice(held, min(left, AT_ONCE))))
            for each, answer in zip(some, await _answers(shard, some, append), strict=True):
                if answer is None:
                    return False
                self._let_go(held)
                self.add(shard, *answer, each[2])
                left -= 1
        return True

    async def _append_all(self, found: Mapping[int, Sequence[Settled]], append: Append, shard: int) -> bool:
        some = found[shard]
        for first in range(0, len(some), AT_ONCE):
            part = some[first : first + AT_ONCE]
            for each, answer in zip(part, await _answers(shard, part, append), strict=True):
                if answer is None:
                    return False
                self.add(shard, *answer, each[2])
        return True

    # -- the second holder ---------------------------------------------------------------------------------------

    async def bound(self) -> None:
        """Move the oldest to files where there is too much in memory. What the disk does not take stays in memory."""
        if self.bytes > self.most_bytes:
            await self._write(down_to=self.most_bytes * 3 // 4)

    async def write_all(self) -> None:
        """Move all to files: this gateway ends, and whoever has its slot next goes on with them."""
        await self._write(down_to=0)

    async def _write(self, *, down_to: int) -> None:
        while self.bytes > down_to:
            some = self._oldest(min(FILE_BYTES, self.bytes - down_to))
            try:
                await asyncio.to_thread(self.files.write, some)
            except OSError as error:
                log.critical("retained calls stay in memory alone: %s", error.strerror)
                return
            for shard, written in some.items():
                for _ in written:
                    self._let_go(self._held[shard])

    def _oldest(self, size: int) -> dict[int, list[Settled]]:
        """About so many bytes, of each shard as large a part."""
        part = size / self.bytes
        return {
            shard: list(islice(held, math.ceil(len(held) * part)))
            for shard, held in enumerate(self._held)
            if held
        }


def _is_earlier(stream_id: str, than: str) -> bool:
    """Whether it is certainly of an earlier millisecond: those of our time have thirteen digits."""
    return stream_id[13:14] == "-" == than[13:14] and stream_id[:13] < than[:13]


def size_of(encoded: bytes) -> int:
    """Bytes that a call takes here at most. An encoder's buffer grows by halves, and is kept as it is."""
    return len(encoded) * 3 // 2 + OVERHEAD_BYTES


async def _answers(shard: int, some: Iterable[Settled], append: Append) -> list[tuple[str, str] | None]:
    """What became of each; None where that is not known."""
    calls = (append(shard, encoded) for _, _, encoded in some)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, LineError | hiredis.ReplyError):
            raise answer
    return [None if isinstance(answer, BaseException) else answer for answer in answers]
