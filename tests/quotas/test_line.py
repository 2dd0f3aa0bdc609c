"""The pipelined connection, against a server that stalls, dies and comes back."""

import asyncio
from collections.abc import AsyncIterator

import hiredis
import pytest

from devstack.valkey import Valkey
from quotas.line import MOST_MISSED, Line, NotSent, OutcomeUnknown


async def nothing(line: Line) -> None:
    """A connection that needs no setting up."""


@pytest.fixture
async def line(own_valkey: Valkey) -> AsyncIterator[Line]:
    line = Line(own_valkey.url, on_connect=nothing)
    await line.start()
    assert await line.wait_open(5)
    yield line
    await line.stop()


async def test_calls_made_at_once_get_their_own_answers(line: Line) -> None:
    answers = await asyncio.gather(*(line.call(("ECHO", f"{n}"), timeout=10) for n in range(2000)))
    assert answers == [f"{n}".encode() for n in range(2000)]


async def test_a_refusal_of_the_server_is_raised_and_disturbs_nobody(line: Line) -> None:
    bad, good = line.call(("NO-SUCH-COMMAND",), timeout=10), line.call(("ECHO", "x"), timeout=10)
    with pytest.raises(hiredis.ReplyError):
        await bad
    assert await good == b"x"


async def test_a_stalled_server_is_an_unknown_outcome_in_time_and_answers_stay_in_place(
    line: Line, own_valkey: Valkey
) -> None:
    late: list[object] = []
    loop = asyncio.get_running_loop()
    for number in range(1, 6):
        own_valkey.pause()
        began = loop.time()
        call = line.call(("INCR", "n"), on_late=late.append)
        with pytest.raises(OutcomeUnknown):
            await call
        took = loop.time() - began
        own_valkey.resume()
        assert await line.wait_open(10)
        assert await line.call(("ECHO", "next"), timeout=10) == b"next"
        assert late == list(range(1, number + 1))
        if took < 0.2:  # else the machine stalled too
            break
    assert 0.09 < took < 0.2


async def test_a_server_that_is_away_refuses_at_once_and_nobody_hangs(line: Line, own_valkey: Valkey) -> None:
    own_valkey.pause()
    waiting = [line.call(("ECHO", "x"), timeout=30) for _ in range(10)]
    await asyncio.sleep(0.05)
    own_valkey.kill()
    for call in waiting:
        with pytest.raises(OutcomeUnknown):
            await call
    with pytest.raises(NotSent):
        line.call(("ECHO", "x"))
    assert not line.is_open

    own_valkey.start()
    assert await line.wait_open(10)
    assert await line.call(("ECHO", "back"), timeout=10) == b"back"


async def test_nobody_waits_for_a_silent_server_until_it_is_heard(line: Line, own_valkey: Valkey) -> None:
    connection = await line.call(("CLIENT", "ID"), timeout=10)
    own_valkey.pause()
    missed = await asyncio.gather(
        *(line.call(("ECHO", "x")) for _ in range(MOST_MISSED)), return_exceptions=True
    )
    assert all(isinstance(each, OutcomeUnknown) for each in missed)
    await asyncio.sleep(0)
    with pytest.raises(NotSent):
        line.call(("ECHO", "x"))
    own_valkey.resume()
    assert await line.wait_open(10)
    assert await line.call(("CLIENT", "ID"), timeout=10) == connection, "what it had been asked is what tells"


async def test_a_server_silent_for_long_is_left_for_a_new_connection(line: Line, own_valkey: Valkey) -> None:
    own_valkey.pause()
    with pytest.raises(OutcomeUnknown):
        await line.call(("ECHO", "x"))
    for _ in range(100):
        if not line.is_open:
            break
        await asyncio.sleep(0.1)
    assert not line.is_open
    own_valkey.resume()
    assert await line.wait_open(10)


async def test_nobody_gets_through_before_the_connection_is_set_up(own_valkey: Valkey) -> None:
    gate = asyncio.Event()

    async def set_up(line: Line) -> None:
        await line.setup_call(("SET", "ready", "1"))
        await gate.wait()

    line = Line(own_valkey.url, on_connect=set_up)
    await line.start()
    assert not await line.wait_open(0.3)
    with pytest.raises(NotSent):
        line.call(("GET", "ready"))
    gate.set()
    assert await line.wait_open(5)
    assert await line.call(("GET", "ready"), timeout=10) == b"1"
    await line.stop()


async def test_what_is_no_answer_of_a_server_ends_its_connection() -> None:
    served = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        commands, echo = hiredis.Reader(), b"no answer\r\n" if served == 1 else b"$2\r\nok\r\n"
        while data := await reader.read(65536):
            commands.feed(data)
            while (command := commands.gets()) is not False:
                writer.write(echo if command[0] == b"ECHO" else b"+OK\r\n")
        writer.close()

    async def on_connect(line: Line) -> None:
        pass

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    line = Line(f"redis://127.0.0.1:{port}", on_connect=on_connect)
    await line.start()
    try:
        assert await line.wait_open(5)
        with pytest.raises(OutcomeUnknown):
            await line.call(("ECHO", "x"), timeout=5)
        assert await line.wait_open(5)
        assert await line.call(("ECHO", "x"), timeout=5) == b"ok"
    finally:
        await line.stop()
        server.close()


async def test_whatever_setting_up_comes_upon_the_line_is_tried_again(own_valkey: Valkey) -> None:
    tries: list[Line] = []

    async def odd_at_first(line: Line) -> None:
        tries.append(line)
        if len(tries) == 1:
            raise ValueError("nobody thought of this")

    line = Line(own_valkey.url, on_connect=odd_at_first)
    await line.start()
    assert await line.wait_open(5)
    assert len(tries) == 2
    await line.stop()
