"""What ``/metrics`` answers, where several processes share a gateway's port (``--workers``) for all of them.

Whichever is asked collects what the others say, each at a socket in a folder that they share. Every series then says
whose it is (``worker``): counters may be added up, and of a gauge only its reader knows whether it may.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from asgiref.sync import sync_to_async
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from consumption import gauges, metrics, runtime

log = logging.getLogger(__name__)

#: Longest wait for what another process says of itself; then it is left out.
WAIT_SECONDS = 2.0


async def of_process() -> bytes:
    """This process's metrics, in Prometheus' text format."""
    if (running := runtime.current()) is not None:
        await gauges.observe(running)
    await sync_to_async(gauges.observe_database)()
    return generate_latest(metrics.REGISTRY)


class Workers:
    """The processes that share a port, as one of them sees them. ``folder``: where each has its socket."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own = folder / f"{os.getpid()}.sock"
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Tell others from now on."""
        self._server = await asyncio.start_unix_server(_tell, self._own)

    async def stop(self) -> None:
        """Tell nobody any more."""
        if self._server is not None:
            self._server.close()
        self._own.unlink(missing_ok=True)

    async def metrics(self) -> bytes:
        """What all of them say. One that does not answer is not in it."""
        sockets = sorted(self._folder.glob("*.sock"))
        texts = await asyncio.gather(*(self._ask(socket) for socket in sockets))
        together = CollectorRegistry(auto_describe=False)
        together.register(
            _Together({place.stem: text for place, text in zip(sockets, texts, strict=True) if text})
        )
        return generate_latest(together)

    async def _ask(self, socket: Path) -> str:
        if socket == self._own:
            return (await of_process()).decode()
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(socket)
                try:
                    return (await reader.read()).decode()
                finally:
                    writer.close()
        except ConnectionRefusedError:
            socket.unlink(missing_ok=True)  # its owner was killed  # noqa: ASYNC240 - a name in a folder of ours
        except (OSError, TimeoutError) as error:
            log.warning("another process did not tell its metrics: %s", type(error).__name__)
        return ""


async def _tell(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(await of_process())
        await writer.drain()
    writer.close()


class _Together(Collector):
    """Metrics of several processes, each sample with its process as ``worker``."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        """The library's hook."""
        families: dict[str, Metric] = {}
        for worker, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                kept = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    kept.add_sample(sample.name, {**sample.labels, "worker": worker}, sample.value)
        yield from families.values()


_workers: Workers | None = None


async def start(folder: str) -> None:
    """Begin to tell the processes that share ``folder``; empty: there are no others."""
    global _workers
    if folder:
        _workers = Workers(Path(folder))
        await _workers.start()


async def stop() -> None:
    """End it."""
    global _workers
    if _workers is not None:
        await _workers.stop()
        _workers = None


async def text() -> bytes:
    """The whole answer."""
    return await (of_process() if _workers is None else _workers.metrics())
