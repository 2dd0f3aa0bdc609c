"""Ports on loopback that nobody else uses, and that stay the same from one start to the next.

They are chosen below the range from which the kernel takes the local port of outgoing connections: inside it,
a client that keeps trying to reach a stopped server can be given that very port and end up connected to
itself.
"""

import os
import random
import socket
from pathlib import Path

from devstack.errors import DevstackError

LOWEST = 15_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
TRIES = 200
#: Of those who choose ports side by side, which one this is of how many (``1/2``): each has ports of its own, since
#: another could take one that was chosen and is not listened on yet.
PART = "PORTS_PART"


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set it too, so what is merely in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def first_ephemeral_port() -> int:
    try:
        return int(EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768


def free_port() -> int:
    highest = first_ephemeral_port()
    if highest <= LOWEST:
        highest = 65_536
    part, parts = map(int, os.environ.get(PART, "1/1").split("/"))
    size = (highest - LOWEST) // parts
    for _ in range(TRIES):
        port = LOWEST + size * (part - 1) + random.randrange(size)  # noqa: S311 - no secret  # nosec B311
        if is_free(port):
            return port
    raise DevstackError("no free port was found on 127.0.0.1")


def remembered_port(path: Path) -> int:
    """The port kept at `path` if it is free, else another one, kept from now on."""
    try:
        port = int(path.read_text())
    except (FileNotFoundError, ValueError):
        port = 0
    if port and is_free(port):
        return port
    port = free_port()
    path.write_text(f"{port}\n")
    return port
