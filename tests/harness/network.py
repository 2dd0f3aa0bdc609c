"""The network of a Valkey Cluster, in which any two can be kept from hearing of each other.

Everybody reaches a node through two proxies, of its port and of its bus port. A node calls from an address of its own,
and so does a client whose connections are made by ``calls_from``: that is how a proxy tells them apart.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from devstack.ports import remembered_port
from tests.harness.cluster import Node
from tests.harness.proxy import Proxy

#: Where jobs call from, whoever they are, and gateways that have no place of their own.
ANYWHERE = "127.0.0.1"
#: Where a gateway may be that the network can keep from nodes while jobs reach them.
GATEWAYS = ("127.0.0.41", "127.0.0.42")
_NODES = tuple(f"127.0.0.{51 + number}" for number in range(9))
_calls_from: ContextVar[str] = ContextVar("calls_from", default=ANYWHERE)


class ReachedNode(Node):
    """A node that others know by its proxies' ports. Its harness goes on to ask it directly."""

    def __init__(self, folder: Path, inherit: Sequence[int], *, number: int) -> None:
        super().__init__(folder, inherit)
        self.place = _NODES[number]
        sources = (*_NODES, *GATEWAYS)
        self.doors = Proxy(0, apart=sources), Proxy(0, apart=sources)

    @property
    def known_ports(self) -> tuple[int, int]:
        port, bus_port = self.doors
        return port.port, bus_port.port

    def prepare(self) -> None:
        super().prepare()
        door, bus_door = self.doors
        door.target_port, bus_door.target_port = remembered_port(self.folder / "port"), self.bus_port
        self.settings |= {
            "bind-source-addr": self.place,
            "cluster-announce-ip": "127.0.0.1",
            "cluster-announce-port": str(door.port),
            "cluster-announce-bus-port": str(bus_door.port),
        }


@contextlib.contextmanager
def open_doors(nodes: Iterable[ReachedNode]) -> Iterator[None]:
    """To be held for as long as the nodes run."""
    with contextlib.ExitStack() as held:
        for node in nodes:
            for door in node.doors:
                held.enter_context(door)
        yield


def part(nodes: Iterable[ReachedNode], *, of: Iterable[ReachedNode | str]) -> None:
    """These nodes and those others, or clients at these places, hear nothing of each other when this returns."""
    others = list(of)
    for node in nodes:
        for other in others:
            _silence(node, other if isinstance(other, str) else other.place)
            if not isinstance(other, str):
                _silence(other, node.place)


def _silence(node: ReachedNode, place: str) -> None:
    for door in node.doors:
        door.pause(source=place)


def heal(nodes: Iterable[ReachedNode]) -> None:
    """Everybody hears everybody, and what was said meanwhile arrives."""
    for node in nodes:
        for door in node.doors:
            for place in (*_NODES, *GATEWAYS, ANYWHERE):
                door.resume(source=place)


@contextlib.contextmanager
def calls_from(place: str) -> Iterator[None]:
    """What connects in here, or in tasks that begin in here, connects from this address, in ``run_placed``."""
    token = _calls_from.set(place)
    try:
        yield
    finally:
        _calls_from.reset(token)


def run_placed(work: Coroutine[Any, Any, None]) -> None:
    """``asyncio.run`` for what connects from where ``calls_from`` says."""
    with asyncio.Runner(loop_factory=_PlacedLoop) as runner:
        runner.run(work)


#: Arguments of a Python that runs a command of ours. It connects from the place that comes next, but to PostgreSQL.
COMMAND_FROM = (
    "-c",
    """
import socket, sys
from django.core.management import execute_from_command_line
connect, place = socket.socket.connect, sys.argv.pop(1)
def connect_from(opened, address):
    opened.bind((place, 0))
    connect(opened, address)
socket.socket.connect = connect_from
execute_from_command_line(sys.argv)
""",
)


class _PlacedLoop(asyncio.SelectorEventLoop):
    async def create_connection(self, *args: Any, **options: Any) -> Any:
        return await super().create_connection(*args, **{"local_addr": (_calls_from.get(), 0)} | options)
