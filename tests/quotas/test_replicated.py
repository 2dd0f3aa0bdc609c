"""What a master answered counts once a replica has it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import hiredis
import pytest
import redis

from devstack.valkey import Valkey
from quotas.line import Line, OutcomeUnknown
from quotas.replicated import ReplicatedLine
from tests.harness.servers import RUN
from tests.harness.waiting import wait_for


async def _nothing(line: Line) -> None:
    """It needs no setting up."""


@pytest.fixture
def replica(own_valkey: Valkey, tmp_path: Path) -> Valkey:
    host, port = "127.0.0.1", own_valkey.port
    password = own_valkey.url.split(":")[2].partition("@")[0]
    settings = {"replicaof": f"{host} {port}", "primaryauth": password}
    redis.Redis.from_url(own_valkey.url).config_set("repl-diskless-sync-delay", 0)
    server = Valkey(tmp_path / "replica", inherit=[RUN.lock.descriptor], settings=settings)
    server.start()
    return server


@pytest.fixture
async def line(own_valkey: Valkey, replica: Valkey) -> AsyncIterator[ReplicatedLine]:
    wait_for(lambda: _is_followed(own_valkey))
    line = ReplicatedLine(own_valkey.url, on_connect=_nothing, on_refusal=lambda: None, timeout=0.3)
    await line.start()
    assert await line.wait_open(5)
    yield line
    await line.stop()
    replica.resume()
    replica.stop()


def _is_followed(server: Valkey) -> bool:
    client = redis.Redis.from_url(server.url)
    client.set("something", "to follow")
    return bool(client.execute_command("WAIT", 1, 100))  # type: ignore[no-untyped-call]


async def test_answers_come_in_order_and_refusals_disturb_nobody(line: ReplicatedLine) -> None:
    calls = [line.call(("INCR", "n"), timeout=10) for _ in range(500)]
    bad = line.call(("NO-SUCH-COMMAND",), timeout=10)
    assert await asyncio.gather(*calls) == list(range(1, 501))
    with pytest.raises(hiredis.ReplyError):
        await bad


async def test_what_no_replica_has_is_an_unknown_outcome_and_its_answer_is_late(
    line: ReplicatedLine, replica: Valkey
) -> None:
    late: list[object] = []
    replica.pause()
    with pytest.raises(OutcomeUnknown):
        await line.call(("INCR", "n"), on_late=late.append)
    # Who only wants to know something waits for no replica.
    assert await line.setup_call(("GET", "n")) == b"1"
    replica.resume()
    assert await line.call(("INCR", "n"), timeout=5) == 2
    assert late == [1]


async def test_a_server_that_dies_with_held_answers_leaves_nobody_waiting(
    line: ReplicatedLine, own_valkey: Valkey, replica: Valkey
) -> None:
    replica.pause()
    calls = [line.call(("INCR", "n"), timeout=30) for _ in range(3)]
    await asyncio.sleep(0.05)
    own_valkey.kill()
    for call in calls:
        with pytest.raises(OutcomeUnknown):
            await call
