"""The drain: journal → ledger, each batch in one transaction, and the healer of epochs.

It may be stopped, killed or doubled anywhere: what is in PostgreSQL decides where it goes on. See ``metering.ledger``
for what an entry does, ``metering.epochs`` for how a shard is opened.
"""

import contextlib
import logging
import signal
import time
import uuid
from collections.abc import Callable
from types import FrameType

import psycopg2
import redis
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection, transaction

from common import clock, crash
from metering import credits, dead_letters, epochs, ledger, partitions, positions
from metering.hand_ins import HandIns
from metering.ledger import Changes
from metering.lines import Line, Reader, Unreadable, entry_fields
from metering.models import DeadLetter
from metering.ownership import Ownership
from metering.stream import BATCH, JournalReader, Position, ShardBatch, order, publish, transactions
from metering.topology import Address
from metering.valkey import Nodes, OneLife

log = logging.getLogger(__name__)

#: How often ownership and epochs are looked at, seconds.
LOOK_EVERY = 1.0
#: The same after a master of a cluster was lost.
LOOK_AGAIN = 0.2
#: On a cluster no read waits for new entries: they are looked for again after these seconds.
CLUSTER_PAUSE = 0.1
#: Longest wait for new entries, ms. SIGTERM is obeyed within it.
BLOCK_MS = 250
#: Small batches follow each other at this distance, seconds: else a trickle costs one transaction a call.
PAUSE = 0.03
#: After an outage the next try comes after these seconds, doubled up to the second number.
FIRST_RETRY, LAST_RETRY = 0.1, 5.0

#: What passes by waiting: a store is away, another drain was quicker, or a partition has to be made first. Of an error
#: while a server-side cursor is closed Django makes none of its own.
OUTAGES = (DatabaseError, psycopg2.Error, redis.RedisError, positions.Fenced, ledger.MissingPartition)


class Session:
    """One stretch of draining on one database session and one life of Valkey. Any outage ends it."""

    def __init__(self, partitions_known: partitions.Known, hand_ins: HandIns) -> None:
        self._journals = Journals(OneLife(), partitions_known, hand_ins)
        self._ownership = Ownership()
        self._look_at = 0.0
        ledger.prepare()

    def close(self) -> None:
        self._journals.close()

    def step(self) -> int:
        """Look after shards where that is due, then drain once; returns how many entries were passed."""
        if time.monotonic() >= self._look_at:
            self._ownership.rebalance()
            opened = self._journals.look_after(self._ownership.shards)
            # There may be more to open; between two groups the others are drained.
            self._look_at = time.monotonic() + (0.0 if opened else LOOK_EVERY)
        return self._journals.drain(block_ms=BLOCK_MS)


class ClusterSession:
    """One stretch of draining on one database session and the masters of a cluster.

    An outage of one master concerns its own shards alone: they go on where they are found next. Shards whose slot is
    being handed over wait until it is. Where all nodes that answer are cut off from the rest, the session ends, and
    with it what it owns: another drain may be on the other side.
    """

    def __init__(self, partitions_known: partitions.Known, hand_ins: HandIns) -> None:
        self._nodes = Nodes()
        self._nodes.topology()  # who cannot drain is no drain among others, and owns nothing
        self._masters: dict[Address, Journals] = {}
        self._partitions = partitions_known
        self._hand_ins = hand_ins
        self._ownership = Ownership()
        self._look_at = 0.0
        ledger.prepare()

    def close(self) -> None:
        for address in list(self._masters):
            self._masters.pop(address).close()

    def step(self) -> int:
        """Look after shards where that is due, then drain every master once; returns how many entries were passed."""
        if time.monotonic() >= self._look_at:
            self._look_after_shards()
        passed = 0
        for address, journals in list(self._masters.items()):
            try:
                passed += journals.drain(block_ms=0)
            except redis.RedisError as outage:
                self._lost(address, outage)
        if not passed:
            time.sleep(CLUSTER_PAUSE)
        return passed

    def _look_after_shards(self) -> None:
        self._look_at = time.monotonic() + LOOK_EVERY
        topology = self._nodes.topology()
        self._ownership.rebalance()
        placed = topology.settled(self._ownership.shards)
        for address in self._masters.keys() - placed.keys():
            self._masters.pop(address).close()
        for address, owned in placed.items():
            try:
                if address not in self._masters:
                    self._masters[address] = Journals(OneLife(address), self._partitions, self._hand_ins)
                if self._masters[address].look_after(owned):
                    self._look_at = time.monotonic()
            except redis.RedisError as outage:
                self._lost(address, outage)

    def _lost(self, address: Address, outage: redis.RedisError) -> None:
        log.warning("draining of %s waits: %s: %s", address, type(outage).__name__, _first_line(outage))
        if address in self._masters:
            self._masters.pop(address).close()
        self._look_at = min(self._look_at, time.monotonic() + LOOK_AGAIN)


class Journals:
    """The journals that one life of a server holds, and how far they are drained."""

    def __init__(self, server: OneLife, partitions_known: partitions.Known, hand_ins: HandIns) -> None:
        self._server = server
        self._reader = JournalReader(server)
        self._partitions = partitions_known
        self._hand_ins = hand_ins
        self._positions: dict[int, Position] = {}

    def close(self) -> None:
        self._server.close()

    def drain(self, *, block_ms: int) -> int:
        """Drain once; returns how many entries were passed. Waits up to ``block_ms`` where there are none."""
        if not self._positions:
            time.sleep(block_ms / 1000)
        return self._drain(self._positions, block_ms=block_ms)

    def look_after(self, owned: set[int]) -> bool:
        """Drain these shards from now on and no others, and open those that need it; returns whether any did."""
        self._positions = {n: place for n, place in self._positions.items() if n in owned}
        gained = epochs.live_only(positions.load(owned - self._positions.keys()))
        opening = epochs.not_live(self._server, self._positions | gained, owned)
        if opening:
            self._open(opening)
        # A predecessor may have died between its commit and this.
        caught_up = [place for n, place in gained.items() if n not in opening]
        publish(self._server, caught_up)
        self._positions.update({place.shard: place for place in caught_up})
        return bool(opening)

    def _open(self, opening: list[int]) -> None:
        log.warning("opening %d shards under a new epoch", len(opening))
        places = epochs.begin(self._server, opening)
        self._hand_ins.wait(self._server, places)
        crash.point("epoch-handed-in")
        ends = epochs.ends(self._server, places)
        while any(order(places[n].last_id) < order(end) for n, end in ends.items()):
            self._drain(places, block_ms=None)
        crash.point("epoch-drained")
        epochs.finish(self._server, places)
        self._positions.update(places)

    def _drain(self, places: dict[int, Position], *, block_ms: int | None) -> int:
        """One read of the journals and its transactions. Moves ``places``."""
        passed = 0
        for batches in transactions(self._reader.read(places, block_ms=block_ms)):
            moved = self._write(batches)
            places.update({place.shard: place for place in moved})
            publish(self._server, moved)
            crash.point("after-trim")
            passed += sum(len(batch.entries) for batch in batches)
        return passed

    def _write(self, batches: list[ShardBatch]) -> list[Position]:
        lines, letters = read(batches)
        self._partitions.ensure({line.month for line in lines} | {clock.month_of(clock.now())})
        crash.point("before-staging")
        try:
            moved = self._commit(batches, lines, letters)
        except ledger.MissingPartition:
            self._partitions.forget()
            raise
        crash.point("after-commit")
        return moved

    def _commit(
        self, batches: list[ShardBatch], lines: list[Line], letters: list[DeadLetter]
    ) -> list[Position]:
        with transaction.atomic():
            moved = positions.advance(batches)
            changes = ledger.merge(lines) if lines else Changes()
            crash.point("after-merge")
            epoch_of = {batch.position.shard: batch.position.epoch for batch in batches}
            dead_letters.file(letters + [_letter(refused, epoch_of) for refused in changes.refused])
            positions.record(moved, _changed_ids(changes))
            credits.give(self._server, changes.changed)
            crash.point("before-commit")
        return moved


def read(batches: list[ShardBatch]) -> tuple[list[Line], list[DeadLetter]]:
    """The lines of a batch, and a letter for every entry that is none."""
    reader = Reader()
    lines: list[Line] = []
    letters: list[DeadLetter] = []
    for batch in batches:
        shard = batch.position.shard
        for stream_id, fields in batch.entries:
            try:
                lines.append(reader.read(shard, stream_id, fields))
            except Unreadable as error:
                letters.append(_unreadable(batch.position, stream_id, fields, str(error)))
    return lines, letters


def _unreadable(position: Position, stream_id: bytes, fields: list[bytes], why: str) -> DeadLetter:
    raw, settlement = entry_fields(fields)
    return DeadLetter(
        shard=position.shard,
        epoch=position.epoch,
        stream_id=stream_id.decode(),
        reason=DeadLetter.Reason.UNREADABLE,
        detail=why,
        entry=raw,
        settlement=settlement.replace("\0", "")[:20],
    )


def _letter(refused: ledger.Refused, epoch_of: dict[int, int]) -> DeadLetter:
    line = refused.line
    return DeadLetter(
        shard=line.shard,
        epoch=epoch_of[line.shard],
        stream_id=line.stream_id.decode(),
        reason=refused.reason,
        detail=refused.detail,
        entry=line.raw,
        settlement=line.settlement,
    )


def _changed_ids(changes: Changes) -> dict[int, list[uuid.UUID]]:
    ids: dict[int, dict[uuid.UUID, None]] = {}
    for line in changes.changed:
        ids.setdefault(line.shard, {})[line.id] = None
    return {shard: list(of_shard) for shard, of_shard in ids.items()}


class Drain:
    """Sessions, one after the other, until told to stop."""

    def __init__(self) -> None:
        self._stopping = False
        self._partitions = partitions.Known()
        self._hand_ins = HandIns()

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Finish the batch in hand, then return from ``run``."""
        self._stopping = True

    def stop_on_signals(self) -> None:
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGINT, self.stop)

    def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Drain until ``stop``, or until ``until`` says so after a step."""
        retry = FIRST_RETRY
        while not self._stopping:
            started = time.monotonic()
            try:
                self._session(until)
                return
            except OUTAGES as outage:
                log.warning("draining waits: %s: %s", type(outage).__name__, _first_line(outage))
            finally:
                _disconnect()
            went_well = time.monotonic() - started > LAST_RETRY
            retry = self._wait(FIRST_RETRY if went_well else retry)

    def _session(self, until: Callable[[], bool]) -> None:
        session = (ClusterSession if settings.VALKEY_CLUSTER else Session)(self._partitions, self._hand_ins)
        try:
            while not self._stopping:
                started = time.monotonic()
                passed = session.step()
                if until():
                    return
                if 0 < passed < BATCH // 4:
                    time.sleep(max(0.0, PAUSE - (time.monotonic() - started)))
        finally:
            session.close()

    def _wait(self, seconds: float) -> float:
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(0.05)
        return min(seconds * 2, LAST_RETRY)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]


def _disconnect() -> None:
    """End the database session, and with it every lock this drain holds."""
    with contextlib.suppress(DatabaseError):  # it is gone either way
        connection.close()
