"""HTTP clients for upstreams, each bound to the address that was judged.

A name is resolved here, once, and the client connects to just that address: between judging and connecting nobody can
make the name point elsewhere.
"""

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from pyreqwest.client import Client, ClientBuilder

from catalog.upstream_networks import addresses_of, may_connect

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
#: A name is resolved again after this time.
RESOLVED_SECONDS = 30.0


class NoAddress(Exception):
    """The host resolves to nothing, or to nothing that may be connected to."""


@dataclass(slots=True)
class _Bound:
    client: Client
    address: str
    until: float


class UpstreamClients:
    """One client, with its own pool of connections, for every host. Use from one event loop only."""

    def __init__(self, *, max_connections: int) -> None:
        self._max_connections = max_connections
        self._bound: dict[str, _Bound] = {}
        self._resolving: dict[str, asyncio.Task[Client]] = {}

    async def of(self, url: str) -> Client:
        """The client for a URL. Raises ``NoAddress``."""
        bound = self._bound.get(url)
        if bound is not None and bound.until > asyncio.get_running_loop().time():
            return bound.client
        resolving = self._resolving.get(url)
        if resolving is None:
            resolving = asyncio.get_running_loop().create_task(self._bind(url))
            self._resolving[url] = resolving
            resolving.add_done_callback(lambda _: self._resolving.pop(url, None))
        return await asyncio.shield(resolving)

    async def close(self) -> None:
        """Close all connections."""
        for bound in self._bound.values():
            await bound.client.close()

    async def _bind(self, url: str) -> Client:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(None, addresses_of, host, port)
        except (OSError, UnicodeError) as error:
            raise NoAddress from error
        address = next((each for each in found if may_connect(each)), None)
        if address is None:
            log.warning("an upstream resolves to addresses that may not be connected to")
            self._bound.pop(url, None)
            raise NoAddress
        bound = self._bound.get(url)
        if bound is None or bound.address != address:
            # A client that is replaced closes itself when its last call has ended.
            bound = self._bound[url] = _Bound(self._build(host, address, port), address, 0.0)
        bound.until = loop.time() + RESOLVED_SECONDS
        return bound.client

    def _build(self, host: str, address: str, port: int) -> Client:
        return (
            ClientBuilder()
            .resolve(host, address, port)
            .max_connections(self._max_connections)
            .connect_timeout(timedelta(seconds=CONNECT_SECONDS))
            .follow_redirects(False)
            .no_proxy()
            .gzip(False)
            .brotli(False)
            .zstd(False)
            .deflate(False)
            .user_agent("llm-marketplace")
            .default_headers({"content-type": "application/json", "accept-encoding": "identity"})
            .build()
        )
