"""What in a server's settings could lose usage."""

import hiredis

from quotas.line import Line
from quotas.replicated import ReplicatedLine

#: A cluster replaces a master that is away for longer than this; leases live for 40 s.
LONGEST_NODE_TIMEOUT_MS = 15_000


async def look_at(line: Line) -> None:
    """Set ``line.unsafe``, and of a master how many of its replicas have to follow. For ``on_connect``."""
    info: bytes = await line.setup_call(("INFO", "everything"))
    unsafe = _of_server(info)
    if isinstance(line, ReplicatedLine):
        settings = await _settings(line)
        line.replicas = max(1, settings.get("min-replicas-to-write", 1))
        unsafe = unsafe or _of_cluster(settings)
    line.unsafe = unsafe


async def _settings(line: Line) -> dict[str, int]:
    """Empty where the server does not show them."""
    try:
        told = await line.setup_call(("CONFIG", "GET", "min-replicas-to-write", "cluster-node-timeout"))
    except hiredis.ReplyError:
        return {}
    # A map, or in the older protocol a list.
    pairs = told.items() if isinstance(told, dict) else zip(told[::2], told[1::2], strict=True)
    return {name.decode(): int(value) for name, value in pairs}


def _of_server(info: bytes) -> str:
    if b"aof_enabled:1" not in info:
        return "unsafe: the append-only file is off"
    if b"maxmemory_policy:noeviction" not in info:
        return "unsafe: it may evict"
    return ""


def _of_cluster(settings: dict[str, int]) -> str:
    if len(settings) < 2:
        return "unsafe: it does not show its settings (CONFIG GET)"
    if settings["min-replicas-to-write"] < 1:
        return "unsafe: a master goes on without replicas (min-replicas-to-write)"
    if settings["cluster-node-timeout"] > LONGEST_NODE_TIMEOUT_MS:
        return "unsafe: a lost master is replaced too late (cluster-node-timeout)"
    return ""
