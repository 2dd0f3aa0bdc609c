"""Which master of a Valkey Cluster has which shard, as the newest of what several of its nodes say."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from redis.crc import key_slot

from metering import shards

SLOTS = 16_384


class Address(NamedTuple):
    """Where a node answers."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """``host:port``, the host of IPv6 in brackets or not. Raises ``ValueError``."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host or not port.isdigit():
        raise ValueError(f"no host:port: {text}")
    return Address(host.strip("[]"), int(port))


def slot_of(key: bytes) -> int:
    """The slot of a key: of its hash tag, where it has one."""
    return int(key_slot(key))


#: The slot of each shard.
SHARD_SLOTS = tuple(slot_of(shards.tag(shard).encode()) for shard in range(shards.SHARDS))


class Topology:
    """Owners of slots.

    Nodes disagree while a master is replaced or a slot is handed over. As among themselves, who claims a slot with
    the higher epoch of configuration has it. A node that was cut off and knows nothing of that is so outvoted; where
    it is the only one that answers, it is believed, and its refusals and the epochs of shards see to the rest.
    """

    def __init__(self, views: Iterable[tuple[Address, bytes]]) -> None:
        """``views``: what ``CLUSTER NODES`` said, and who was asked."""
        lines = [line for asked, text in views for line in _lines(asked, text)]
        self.nodes = frozenset(line.address for line in lines)
        self._owners: list[Address | None] = [None] * SLOTS
        claims = {(line.epoch, line.address, *claim) for line in lines for claim in line.claims}
        for _, address, first, last in sorted(claims):
            self._owners[first : last + 1] = [address] * (last + 1 - first)
        self.owners = frozenset(owner for owner in set(self._owners) if owner is not None)
        self._moving = {slot for line in lines for slot in line.moving}

    def owner(self, slot: int) -> Address | None:
        return self._owners[slot]

    def owner_of(self, shard: int) -> Address | None:
        return self._owners[SHARD_SLOTS[shard]]

    def settled(self, of: Iterable[int]) -> dict[Address, set[int]]:
        """Shards by their owner. One whose slot is just being moved, or has no owner, is left out."""
        found: dict[Address, set[int]] = {}
        for shard in of:
            owner = self.owner_of(shard)
            if owner is not None and SHARD_SLOTS[shard] not in self._moving:
                found.setdefault(owner, set()).add(shard)
        return found


class _Line(NamedTuple):
    """One line of ``CLUSTER NODES``. ``moving``: slots that the node is giving away or taking over."""

    address: Address
    epoch: int
    claims: list[tuple[int, int]]
    moving: list[int]


def _lines(asked: Address, text: bytes) -> Iterator[_Line]:
    """``<id> <ip:port@bus[,hostname]> <flags> <master> <ping> <pong> <epoch> <link> <slot or range> …``."""
    for line in text.decode().splitlines():
        _, where, flags, _, _, _, epoch, _, *slots = line.split(" ")
        if {"noaddr", "handshake"} & set(flags.split(",")):
            continue
        ranges = [each.partition("-") for each in slots if not each.startswith("[")]
        yield _Line(
            _address(where, asked),
            int(epoch),
            [(int(first), int(last or first)) for first, _, last in ranges],
            [int(each[1:].partition("-")[0]) for each in slots if each.startswith("[")],
        )


def _address(where: str, asked: Address) -> Address:
    """By its name where it has one, as certificates want. One that has met nobody does not know its own address."""
    address, _, names = where.partition("@")
    host, _, port = address.rpartition(":")
    name = names.split(",")[1] if "," in names else ""
    return Address(name or host.strip("[]") or asked.host, int(port))
