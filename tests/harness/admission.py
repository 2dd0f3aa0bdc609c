"""Admission on a real Valkey whose shards are all open."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from consumption.local_mode import LocalMode
from consumption.spool import Spool
from metering import shards
from quotas import admission as admission_module
from quotas.admission import Admission
from quotas.line import Line
from quotas.local_admission import LocalAdmission
from quotas.shares import Shares

#: What a server may take where it is not the time that matters: a busy machine takes more than a caller has.
PATIENT = 20.0


@contextlib.asynccontextmanager
async def opened_admission(
    url: str, *, journal_bound: int = 1_000_000, seconds: float = PATIENT
) -> AsyncIterator[Admission]:
    """An admission that signs as ``gate:1``, in epoch 1 of the server at ``url``, which has so many ``seconds``."""
    found: list[Admission] = []

    async def on_connect(line: Line) -> None:
        await found[0].on_connect(line)

    line = Line(url, on_connect=on_connect, timeout=PATIENT)
    found.append(Admission(line, gateway="gate:1", journal_bound=journal_bound))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(admission_module, "ANSWER_SECONDS", seconds)
        await line.start()
        assert await line.wait_open(PATIENT)
        await open_epoch(line, 1)
        assert await found[0].refresh_epochs()
        line._timeout = seconds
        yield found[0]
        await line.stop()


async def open_epoch(line: Line, number: int) -> None:
    """What the drain does when a shard is opened, as far as gateways see it."""
    info = await line.call(("INFO", "server"), timeout=PATIENT)
    run_id = next(row[7:] for row in info.decode().splitlines() if row.startswith("run_id:"))
    for shard in range(shards.SHARDS):
        await line.call(("SET", shards.epoch_key(shard), f"{number}:{run_id}"), timeout=PATIENT)


def local_mode(admission: Admission, spool: Spool, *, gateways: int = 2) -> LocalMode:
    """What a gateway lets in by itself."""
    return LocalMode(LocalAdmission(Shares(admission, gateways=gateways)), spool)
