"""Admission on a real Valkey whose shards are all open."""

import contextlib
from collections.abc import AsyncIterator

from consumption.local_mode import LocalMode
from consumption.spool import Spool
from metering import shards
from quotas.admission import Admission
from quotas.line import Line
from quotas.local_admission import LocalAdmission
from quotas.shares import Shares


@contextlib.asynccontextmanager
async def opened_admission(url: str, *, journal_bound: int = 1_000_000) -> AsyncIterator[Admission]:
    """An admission that signs as ``gate:1``, in epoch 1 of the server at ``url``."""
    found: list[Admission] = []

    async def on_connect(line: Line) -> None:
        await found[0].on_connect(line)

    line = Line(url, on_connect=on_connect)
    found.append(Admission(line, gateway="gate:1", journal_bound=journal_bound))
    await line.start()
    assert await line.wait_open(5)
    await open_epoch(line, 1)
    assert await found[0].refresh_epochs()
    yield found[0]
    await line.stop()


async def open_epoch(line: Line, number: int) -> None:
    """What the drain does when a shard is opened, as far as gateways see it."""
    info = await line.call(("INFO", "server"), timeout=2)
    run_id = next(row[7:] for row in info.decode().splitlines() if row.startswith("run_id:"))
    for shard in range(shards.SHARDS):
        await line.call(("SET", shards.epoch_key(shard), f"{number}:{run_id}"), timeout=2)


def local_mode(admission: Admission, spool: Spool, *, gateways: int = 2) -> LocalMode:
    """What a gateway lets in by itself."""
    return LocalMode(LocalAdmission(Shares(admission, gateways=gateways)), spool)
