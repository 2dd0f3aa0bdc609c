"""Retained calls on the local disk: what is too much for memory, and what a gateway leaves to its slot's next owner.

A file is written whole, fsynced, and never changed; it goes once nothing in it is waited for any more. A line is a
shard, an epoch or ``-``, a stream id and the entry, which has no line's end in it.
"""

import contextlib
import errno
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from common.ids import uuid7
from metering import journal
from metering.stream import order

log = logging.getLogger(__name__)

_PATTERN = "retained-*"
_NO_EPOCH = b"-"

#: Epoch and stream id under which a call was journalled, and its encoded entry.
Settled = tuple[str, str, bytes]


@dataclass(slots=True)
class Part:
    """What a file holds of one shard and epoch: how many, and the last stream id of them as ``order`` has it."""

    records: int = 0
    last: tuple[int, int] = (0, 0)


#: Of a shard, an epoch, and what a file holds of them: whether it is waited for no longer.
Done = Callable[[int, str, Part], bool]


class File:
    """One file, and what of it is still waited for."""

    def __init__(self, path: Path, calls: Iterable[tuple[int, Settled]] = ()) -> None:
        """``calls``: what was just written there; else it is read."""
        self.path = path
        self.parts: dict[tuple[int, str], Part] = defaultdict(Part)
        #: The id of the call in it that began first.
        self.oldest = b""
        for shard, (epoch, stream_id, encoded) in calls or self._lines():
            part = self.parts[shard, epoch]
            part.records += 1
            part.last = max(part.last, order(stream_id))
            self.oldest = min(self.oldest or id_of(encoded), id_of(encoded))

    def read(self, epochs: Mapping[int, str]) -> dict[int, list[Settled]]:
        """The calls that are waited for, of these shards, that were journalled in other epochs."""
        found: dict[int, list[Settled]] = defaultdict(list)
        for shard, settled in self._lines():
            if shard in epochs and settled[0] != epochs[shard] and (shard, settled[0]) in self.parts:
                found[shard].append(settled)
        return found

    def _lines(self) -> Iterator[tuple[int, Settled]]:
        with self.path.open("rb") as file:
            for line in file:
                try:
                    shard, epoch, stream_id, encoded = line.rstrip(b"\n").split(b" ", 3)
                    journal.decode(encoded)
                    order(stream_id.decode())
                    yield (
                        int(shard),
                        ("" if epoch == _NO_EPOCH else epoch.decode(), stream_id.decode(), encoded),
                    )
                except (ValueError, msgspec.MsgspecError):
                    # Cut short by a crash: what is not in a whole file was not let go of in memory either.
                    log.warning("a retained record is cut short")


class RetainedFiles:
    """The files of one slot."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._files: list[File] = []

    def open(self, slot: Path) -> None:
        """Read what is there. Raises ``OSError``."""
        self._folder = slot
        for path in sorted(slot.glob(_PATTERN)):
            self._keep(File(path))

    @property
    def records(self) -> int:
        return sum(part.records for file in self._files for part in list(file.parts.values()))

    @property
    def shards(self) -> set[int]:
        return {shard for file in self._files for shard, _ in file.parts}

    @property
    def oldest(self) -> list[bytes]:
        """The oldest call of each file."""
        return [file.oldest for file in self._files]

    def write(self, some: Mapping[int, Sequence[Settled]]) -> None:
        """Put calls, by shard, on disk. Raises ``OSError``; then nothing is kept of them. To be called in a thread."""
        if self._folder is None:
            raise OSError(errno.EBADF, "no slot is open")
        path = self._folder / f"retained-{uuid7().hex}"
        try:
            with path.open("xb") as file:
                for shard, settled in some.items():
                    file.writelines(_line(shard, *each) for each in settled)
                file.flush()
                os.fsync(file.fileno())
            _sync(self._folder)
            self._keep(File(path, ((shard, each) for shard, settled in some.items() for each in settled)))
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def passed(self, shard: int, number: str, last: tuple[int, int]) -> None:
        """PostgreSQL has all of an epoch, by its number, up to a stream id."""
        self._forget(
            lambda of, epoch, part: of == shard and epoch.partition(":")[0] == number and part.last <= last
        )

    def elsewhere(self, epochs: Mapping[int, str]) -> list[File]:
        """The files with calls of these shards that were journalled in other epochs."""
        return [file for file in self._files if any(epochs.get(s, e) != e for s, e in file.parts)]

    def shards_elsewhere(self, epochs: Mapping[int, str]) -> set[int]:
        """The shards that they are of."""
        parts = [part for file in self.elsewhere(epochs) for part in file.parts]
        return {shard for shard, epoch in parts if epochs.get(shard, epoch) != epoch}

    def handed_in(self, file: File, epochs: Mapping[int, str]) -> None:
        """All that ``File.read`` found is journalled again."""
        self._forget(lambda shard, epoch, _: epochs.get(shard, epoch) != epoch, file)

    def _forget(self, is_done: Done, *of: File) -> None:
        for file in of or list(self._files):
            for key in [key for key, part in file.parts.items() if is_done(*key, part)]:
                del file.parts[key]
            if not file.parts:
                self._files.remove(file)
                with contextlib.suppress(OSError):
                    file.path.unlink()

    def _keep(self, file: File) -> None:
        if file.parts:
            self._files.append(file)
        else:
            file.path.unlink()


def take_over(slot: Path, own: Path) -> None:
    """The files of a slot whose owner died go to another one of the same disk."""
    for path in slot.glob(_PATTERN):
        path.rename(own / path.name)


def id_of(encoded: bytes) -> bytes:
    """The id of the call that an entry is of: its first field (``journal.Entry``). As text, ids sort by time."""
    begin = len(b'{"request_id":"')
    return encoded[begin : begin + 36]


def _line(shard: int, epoch: str, stream_id: str, encoded: bytes) -> bytes:
    return b"%d %b %b %b\n" % (shard, epoch.encode() or _NO_EPOCH, stream_id.encode(), encoded)


def _sync(folder: Path) -> None:
    """So that the file's name, too, outlives a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
