"""Settled calls that Valkey has not confirmed, on local disk, fsynced before the caller is answered.

Every gateway owns one slot below ``SPOOL_DIR`` for as long as it lives, by a lock that dies with it::

    SPOOL_DIR/slot-0/lock           held by the owner
    SPOOL_DIR/slot-0/name           the slot's name, made once; leases are signed with it
    SPOOL_DIR/slot-0/records.jsonl  what is still to be settled

A slot that nobody holds had an owner that died: whoever starts next takes its records over.
"""

import asyncio
import base64
import fcntl
import json
import logging
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import hiredis

from metering import journal, shards
from quotas.admission import StaleEpoch
from quotas.line import LineError, OutcomeUnknown

log = logging.getLogger(__name__)

#: A settle of unknown fate is repeated for so long; after that its tombstone may be gone, and it is appended.
REPEAT_SECONDS = 60.0
PAUSE_SECONDS = 0.5


class Settler(Protocol):
    """What the spool needs of admission."""

    def known_epoch(self, shard: int) -> str: ...

    async def settle(self, entry: journal.Entry, encoded: bytes, *, epoch: str) -> str: ...

    async def append(self, entry: journal.Entry, encoded: bytes) -> str: ...


@dataclass(slots=True)
class Record:
    """One settled call. ``since``: when it was first tried; ``epoch``: the shard's epoch then, or empty."""

    encoded: bytes
    since: float
    epoch: str
    append: bool
    entry: journal.Entry = field(init=False)

    def __post_init__(self) -> None:
        self.entry = journal.decode(self.encoded)

    def line(self) -> bytes:
        text = {
            "since": self.since,
            "epoch": self.epoch,
            "append": self.append,
            "entry": base64.b64encode(self.encoded).decode(),
        }
        return json.dumps(text).encode() + b"\n"


class Spool:
    """The slot of this gateway, and the records in it."""

    def __init__(self, folder: Path) -> None:
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

    def _own(self, slot: Path, lock: IO[str]) -> None:
        self._lock = lock
        self._slot = slot
        self.name = _name_of(slot)
        self._adopt(slot)

    def _adopt(self, slot: Path) -> None:
        self.predecessors.add(_name_of(slot))
        records = slot / "records.jsonl"
        for record in _read(records):
            self._records[record.entry.request_id] = record
        if slot != self._slot:
            self._rewrite()
            records.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def oldest(self) -> uuid.UUID | None:
        """The oldest call that waits here."""
        return min(self._records, default=None)

    async def keep(self, encoded: bytes, *, epoch: str, append: bool) -> None:
        """Hold a record; returns once it is on disk. Raises ``OSError`` where it cannot be written there."""
        record = Record(encoded, time.time(), epoch, append)
        self._records[record.entry.request_id] = record
        await asyncio.get_running_loop().run_in_executor(self._disk, self._write, record.line())

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
        """Hand every record in, as far as Valkey answers. Harmless to repeat."""
        settled = 0
        for request_id, record in list(self._records.items()):
            if not await _hand_in(record, settler):
                break
            self._records.pop(request_id, None)
            settled += 1
        if settled and not self._records:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._rewrite)

    async def keep_settling(self, settler: Settler) -> None:
        """``settle_all`` until cancelled."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            if self._records:
                await self.settle_all(settler)

    def close(self) -> None:
        """Give the slot up. What it still holds waits for the next owner."""
        self._disk.shutdown(wait=True)
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.close()


async def _hand_in(record: Record, settler: Settler) -> bool:
    """Settle or append one record; False where Valkey did not answer."""
    epoch = record.epoch or settler.known_epoch(shards.shard_of(record.entry.consumer_id))
    try:
        if not record.append and time.time() - record.since < REPEAT_SECONDS:
            await settler.settle(record.entry, record.encoded, epoch=epoch)
        else:
            await settler.append(record.entry, record.encoded)
    except StaleEpoch:
        record.append = True
        return False
    except (LineError, hiredis.ReplyError) as error:
        if isinstance(error, OutcomeUnknown):
            record.epoch = epoch  # in another one nothing would know of this try, and it would count twice
        log.warning("spooled settle waits: %s", type(error).__name__)
        return False
    return True


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
                Record(base64.b64decode(text["entry"]), text["since"], text["epoch"], text["append"])
            )
        except (ValueError, KeyError):
            log.warning("a record of the spool is cut short")
    return records
