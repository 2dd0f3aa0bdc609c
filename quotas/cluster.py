"""The masters of a Valkey Cluster, one line to each, as if they were one server.

Which master has what is asked once a second, while a line is down more often, and whenever a server refuses a call
because another one has its slot. A shard that went to another master is not believed there (``Admission.moved``)
until the drain has opened it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hiredis

from metering import shards
from metering.topology import Address, Topology, slot_of
from quotas.line import Argument, Line, reason_of
from quotas.replicated import ReplicatedLine

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
#: The same while a line is down.
LOOK_AGAIN = 0.2
#: Refusals come by the thousand and are one look; a refused call is tried again after this, seconds.
PAUSE = 0.02
#: Commands whose first key is not their first argument.
_SCRIPTED = ("EVAL", "EVALSHA")


class Cluster:
    """``by_shard`` is the very same list for as long as this lives. Use from one event loop only.

    ``on_moved`` is told of every shard that another line has from now on.
    """

    def __init__(
        self,
        url: str,
        seeds: Sequence[Address],
        *,
        on_connect: Callable[[Line], Awaitable[None]],
        on_moved: Callable[[int], None],
        timeout: float = 0.1,
    ) -> None:
        self._url = url
        self._seeds = tuple(seeds)
        self._on_connect = on_connect
        self._on_moved = on_moved
        self._timeout = timeout
        self._nodes: frozenset[Address] = frozenset(seeds)
        self._lines: dict[Address, ReplicatedLine] = {}
        self._topology = Topology(())
        # One that is never started: whatever goes there is not sent.
        self._nowhere = self._line_to(None)
        self.by_shard: list[Line] = [self._nowhere] * shards.SHARDS
        self._look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to connect, and stay connected until ``stop``."""
        self._tasks = [asyncio.get_running_loop().create_task(self._keep_looking())]

    async def stop(self) -> None:
        """Close all lines. Calls still waiting end as ``OutcomeUnknown``."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(line.stop() for line in self._lines.values()))

    @property
    def is_open(self) -> bool:
        """Whether calls are being let through, whatever their shard."""
        return all(line.is_open for line in set(self.by_shard))

    async def call(
        self,
        command: Sequence[Argument],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as a line's
    ) -> Any:
        """``Line.call``, to whoever has the command's first key.

        A call that was refused because another server has it has certainly not run, and is made again as long as
        there is time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        slot = slot_of(_first_key(command))
        asked: ReplicatedLine | None = None
        while True:
            left = deadline - loop.time()
            try:
                if asked is not None:
                    return await asked.ask(command, timeout=left)
                return await self._line_of(slot).call(command, timeout=left)
            except hiredis.ReplyError as refusal:
                if loop.time() + PAUSE > deadline or not str(refusal).startswith(
                    ("MOVED", "ASK", "TRYAGAIN")
                ):
                    raise
                asked = self._lines.get(_asked(str(refusal)))
            if asked is None:
                await asyncio.sleep(PAUSE)

    def _line_of(self, slot: int) -> Line:
        owner = self._topology.owner(slot)
        return self._nowhere if owner is None else self._lines.get(owner, self._nowhere)

    def _line_to(self, address: Address | None) -> ReplicatedLine:
        return ReplicatedLine(
            self._url,
            on_connect=self._on_connect,
            on_refusal=lambda: self._look.set(),
            timeout=self._timeout,
            address=address,
        )

    # -- who has what --------------------------------------------------------------------------------------------

    async def _keep_looking(self) -> None:
        while True:
            self._look.clear()
            try:
                await self._apply(Topology(await self._views()))
            except (ValueError, UnicodeDecodeError) as error:
                log.error("a node says nonsense of its cluster: %s", error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), LOOK_EVERY if self.is_open else LOOK_AGAIN)
            await asyncio.sleep(PAUSE)

    async def _views(self) -> list[tuple[Address, bytes]]:
        """What the masters say; where none of them does, what any node says."""
        views, _ = await _said([(address, _view(line)) for address, line in self._lines.items()])
        if not views:
            everybody = sorted(self._nodes.union(self._seeds))
            views, why = await _said([(address, self._view_of_stranger(address)) for address in everybody])
            if not views:
                log.warning("no node of the cluster answers: %s", ", ".join(sorted(why)))
        return views

    async def _view_of_stranger(self, address: Address) -> bytes:
        """Over a connection of its own."""
        connection = self._line_to(address)._new_connection()
        try:
            async with asyncio.timeout(LOOK_EVERY):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("CLUSTER", "NODES")
                return bytes(await connection.read_response(disable_decoding=True))
        finally:
            await connection.disconnect(nowait=True)

    async def _apply(self, found: Topology) -> None:
        if not found.nodes:
            return
        self._nodes, self._topology = found.nodes, found
        for address in found.owners - self._lines.keys():
            self._lines[address] = self._line_to(address)
            await self._lines[address].start()
        for shard, line in enumerate(self.by_shard):
            owner = found.owner_of(shard)
            if owner is not None and self._lines[owner] is not line:
                self.by_shard[shard] = self._lines[owner]
                self._on_moved(shard)
        gone = [self._lines.pop(address) for address in self._lines.keys() - found.owners]
        await asyncio.gather(*(line.stop() for line in gone))


async def _said(
    asked: Sequence[tuple[Address, Awaitable[bytes]]],
) -> tuple[list[tuple[Address, bytes]], set[str]]:
    """What was answered by whom, and why the others did not."""
    answers = await asyncio.gather(*(answer for _, answer in asked), return_exceptions=True)
    pairs = zip((address for address, _ in asked), answers, strict=True)
    said = [(address, answer) for address, answer in pairs if isinstance(answer, bytes)]
    return said, {reason_of(answer) for answer in answers if isinstance(answer, BaseException)}


async def _view(line: Line) -> bytes:
    return bytes(await line.setup_call(("CLUSTER", "NODES"), timeout=0.5))


def _first_key(command: Sequence[Argument]) -> bytes:
    key = command[3 if command[0] in _SCRIPTED else 1]
    return key if isinstance(key, bytes) else str(key).encode()


def _asked(refusal: str) -> Address:
    """Whom ``ASK <slot> <host:port>`` names; of any other refusal, nobody."""
    kind, _, rest = refusal.partition(" ")
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return Address(host, int(port)) if kind == "ASK" and port.isdigit() else Address("", 0)
