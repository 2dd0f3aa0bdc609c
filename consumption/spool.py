"""Settled calls that Valkey has not confirmed, on local disk, fsynced before the caller is answered.

Every gateway owns one slot below ``SPOOL_DIR`` for as long as it lives, by a lock that dies with it::

    SPOOL_DIR/slot-0/lock           held by the owner
    SPOOL_DIR/slot-0/name           the slot's name, made once; leases are signed with it
    SPOOL_DIR/slot-0/records.jsonl  what is still to be settled
    SPOOL_DIR/slot-0/retained-…     what was settled and PostgreSQL may not have yet (``consumption.retained``)

Besides settles that Valkey did not confirm these are the calls of local mode, from before they go upstream on.

A slot that nobody holds had an owner that died: whoever starts next takes its records over.
"""

import asyncio
import base64
import contextlib
import fcntl
import json
import logging
import os
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import hiredis

from consumption import retained_files
from consumption.retained import Retained
from metering import journal, shards
from quotas.admission import StaleEpoch
from quotas.line import LineError

log = logging.getLogger(__name__)

#: A settle of unknown fate is repeated for so long; after that its tombstone may be gone, and it is appended.
REPEAT_SECONDS = 60.0
PAUSE_SECONDS = 0.5


class Settler(Protocol):
    """What the spool needs of admission."""

    def reaches(self, shard: int) -> bool: ...

    def known_epoch(self, shard: int) -> str: ...

    async def lend(self, entry: journal.Entry, *, share: str, epoch: str) -> None: ...

    async def settle(self, entry: journal.Entry, encoded: bytes, *, epoch: str) -> str: ...

    async def append(self, shard: int, encoded: bytes) -> tuple[str, str]: ...


@dataclass(slots=True)
class Record:
    """One settled call. ``since``: when it was first tried; ``epoch``: the shard's epoch then, or empty.

    ``local``: Valkey was never told of it; ``share``: what it was let in out of. ``open``: it is not settled yet, and
    this is the entry for the case that it never is. ``gone``: it came to nothing.
    """

    encoded: bytes
    since: float = 0.0
    epoch: str = ""
    append: bool = False
    local: bool = False
    open: bool = False
    share: str = ""
    gone: bool = False
    adopted: bool = False
    on_lent: Callable[[], None] | None = None
    entry: journal.Entry = field(init=False)

    def __post_init__(self) -> None:
        self.entry = journal.decode(self.encoded)

    @property
    def shard(self) -> int:
        return shards.shard_of(self.entry.consumer_id)

    def line(self) -> bytes:
        text = {
            "since": self.since,
            "epoch": self.epoch,
            "append": self.append,
            "entry": base64.b64encode(self.encoded).decode(),
        }
        if self.local:
            text |= {"local": True, "open": self.open, "share": self.share, "gone": self.gone}
        return json.dumps(text).encode() + b"\n"


class Spool:
    """The slot of this gateway, and the records in it. What is handed in is ``retained``."""

    def __init__(self, folder: Path, retained: Retained | None = None) -> None:
        self.retained = Retained() if retained is None else retained
        self._folder = folder
        self._disk = ThreadPoolExecutor(1, "spool")
        self._records: dict[uuid.UUID, Record] = {}
        self._file: IO[bytes] | None = None
        self._lock: IO[str] | None = None
        self._slot = folder
        self.name = ""
        self.predecessors: set[str] = set()

    def open(self) -> None:
        """Take a slot, and over what dead owners left. Raises ``OSError`` where the folder cannot be written."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for slot in (self._folder / f"slot-{number}" for number in range(1000)):
            lock = _try_lock(slot)
            if lock is None:
                continue
            if self._lock is None:
                self._own(slot, lock)
            else:
                self._adopt(slot)
                lock.close()
            if not (self._folder / f"slot-{int(slot.name[5:]) + 1}").exists():
                break
        self._rewrite()
        self.retained.files.open(self._slot)

    def _own(self, slot: Path, lock: IO[str]) -> None:
        self._lock = lock
        self._slot = slot
        self.name = _name_of(slot)
        self._adopt(slot)

    def _adopt(self, slot: Path) -> None:
        self.predecessors.add(_name_of(slot))
        records = slot / "records.jsonl"
        for record in _read(records):
            record.adopted = True
            # What was open is over, and was not settled.
            record.append = record.append or record.open
            record.open = False
            if record.gone:
                self._records.pop(record.entry.request_id, None)
            else:
                self._records[record.entry.request_id] = record
        if slot != self._slot:
            retained_files.take_over(slot, self._slot)
            self._rewrite()
            records.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def has_adopted(self) -> bool:
        """Whether records of an earlier owner are still to be handed in."""
        return any(record.adopted for record in self._records.values())

    @property
    def oldest(self) -> uuid.UUID | None:
        """The oldest call that waits here."""
        return min(self._records, default=None)

    async def keep(self, encoded: bytes, *, epoch: str, append: bool) -> None:
        """Hold a record; returns once it is on disk. Raises ``OSError`` where it cannot be written there."""
        await self.hold(Record(encoded, time.time(), epoch, append))

    async def hold(self, record: Record) -> None:
        """``keep``, of a record that is made; it replaces an earlier one of the same call."""
        self._records[record.entry.request_id] = record
        await self._written(record.line())

    async def drop(self, request_id: uuid.UUID) -> None:
        """A call that was held came to nothing."""
        record = self._records.pop(request_id, None)
        if record is not None:
            record.gone = True
            with contextlib.suppress(OSError):
                await self._written(record.line())

    async def _written(self, lines: bytes) -> None:
        await asyncio.get_running_loop().run_in_executor(self._disk, self._write, lines)

    def _write(self, line: bytes) -> None:
        if self._file is None:
            raise OSError("the spool is not open")
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _rewrite(self) -> None:
        """Only what is still open, in a file that replaces the old one at once."""
        path = self._slot / "records.jsonl"
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.writelines(record.line() for record in list(self._records.values()))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        if self._file is not None:
            self._file.close()
        self._file = path.open("ab")

    async def settle_all(self, settler: Settler) -> None:
        """Hand every record in, as far as Valkey answers: a shard that does not keeps no other waiting. Harmless to
        repeat."""
        await self._begin(settler)
        await self._settle_each([record for record in self._records.values() if not record.open], settler)

    async def append_all(
        self, settler: Settler, of: Collection[int], *, but: Collection[uuid.UUID]
    ) -> set[int]:
        """Append what waits for these shards, which are being opened; returns those of which not all was.

        ``but``: calls that have their leases again, and are settled with them. Calls of local mode of which Valkey
        was never told are settled out of their share, as ever.
        """
        found = [
            record
            for id_, record in self._records.items()
            if record.shard in of and not record.open and (record.epoch or record.append or not record.local)
            and id_ not in but
        ]  # fmt: skip
        for record in found:
            record.append = True
        return await self._settle_each(found, settler)

    async def _settle_each(self, records: Iterable[Record], settler: Settler) -> set[int]:
        """Returns the shards of which not all was handed in."""
        by_shard: dict[int, list[Record]] = defaultdict(list)
        for record in records:
            by_shard[record.shard].append(record)
        done = await asyncio.gather(*(self._settle_some(some, settler) for some in by_shard.values()))
        if by_shard and not self._records:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._rewrite)
        return {shard for shard, is_done in zip(by_shard, done, strict=True) if not is_done}

    async def _settle_some(self, records: Iterable[Record], settler: Settler) -> bool:
        """Those of one shard in turn; False where Valkey did not answer."""
        for record in records:
            journalled = await _hand_in(record, settler)
            if journalled is None:
                return False
            self.retained.add(record.shard, *journalled, record.encoded)
            if self._records.get(record.entry.request_id) is record:
                del self._records[record.entry.request_id]
        return True

    async def _begin(self, settler: Settler) -> None:
        """Write down in which epoch calls are tried that were in none: from here on their fate may be unknown, and in
        another epoch nothing would know of this try, and they would count twice."""
        lines = []
        for record in self._records.values():
            if record.epoch or record.open or record.append or not settler.reaches(record.shard):
                continue
            record.since, record.epoch = record.since or time.time(), settler.known_epoch(record.shard)
            lines.append(record.line())
        if lines:
            try:
                await self._written(b"".join(lines))
            except OSError as error:
                # Only whether counters count twice is at stake, where this process is killed too.
                log.critical("the spool cannot be written: %s", error.strerror)

    async def keep_settling(self, settler: Settler) -> None:
        """``settle_all`` until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if self._records:
                try:
                    await self.settle_all(settler)
                except OSError as error:
                    log.critical("the spool cannot be written: %s", error.strerror)

    def close(self) -> None:
        """Give the slot up. What it still holds waits for the next owner."""
        self._disk.shutdown(wait=True)
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.close()


async def _hand_in(record: Record, settler: Settler) -> tuple[str, str] | None:
    """Settle or append one record; returns the epoch and the stream id, or None where Valkey did not answer."""
    try:
        if record.append or (record.since and time.time() - record.since >= REPEAT_SECONDS):
            journalled = await settler.append(record.shard, record.encoded)
        elif not record.epoch:
            return None
        else:
            if record.local:
                await settler.lend(record.entry, share=record.share, epoch=record.epoch)
            stream_id = await settler.settle(record.entry, record.encoded, epoch=record.epoch)
            journalled = record.epoch, stream_id
    except StaleEpoch:
        record.append = True
        return None
    except (LineError, hiredis.ReplyError) as error:
        log.warning("spooled settle waits: %s", type(error).__name__)
        return None
    if record.on_lent is not None:
        record.on_lent()
    return journalled


def _try_lock(slot: Path) -> IO[str] | None:
    slot.mkdir(exist_ok=True, mode=0o700)
    lock = (slot / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def _name_of(slot: Path) -> str:
    name = slot / "name"
    if not name.exists():
        name.write_text(uuid.uuid4().hex)
    return name.read_text()


def _read(path: Path) -> list[Record]:
    """All whole records of a file. A line cut short by a crash was never answered for, and is passed over."""
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            text = json.loads(line)
            records.append(
                Record(
                    base64.b64decode(text["entry"]),
                    text["since"],
                    text["epoch"],
                    text["append"],
                    local=text.get("local", False),
                    open=text.get("open", False),
                    share=text.get("share", ""),
                    gone=text.get("gone", False),
                )
            )
        except (ValueError, KeyError):
            log.warning("a record of the spool is cut short")
    return records
