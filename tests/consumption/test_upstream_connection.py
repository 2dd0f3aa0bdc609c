"""One connection to an upstream that may do anything: a bounded answer, or a failure that says what was done."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from consumption.upstream_connection import Broken, Connection, NoPlace, NotConnected, Patience, TooSlow
from consumption.upstream_pool import UpstreamPool

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REQUEST = b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n"

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Served:
    """A pool, and an upstream on loopback that behaves as a test says."""

    def __init__(self, pool: UpstreamPool, port: int) -> None:
        self.pool = pool
        self.url = f"http://127.0.0.1:{port}/v1"
        self.connections = 0
        self.closed = asyncio.Event()

    async def ask(
        self, *, whole: bool = True, most_bytes: int = 1_000_000, **patience: float | int | None
    ) -> Connection:
        connection = self.pool.resting(self.url) or await self.pool.connect(self.url, seconds=2)
        until = asyncio.get_running_loop().time() + float(patience.pop("total", None) or 20)
        await connection.send(REQUEST, Patience(until, **patience), whole=whole, most_bytes=most_bytes)  # type: ignore[arg-type]
        return connection


@contextlib.asynccontextmanager
async def serving(behave: Behaviour) -> AsyncIterator[Served]:
    found: list[Served] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found[0].connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await behave(reader, writer)
        writer.close()
        found[0].closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    pool = UpstreamPool(max_connections=10)
    found.append(Served(pool, server.sockets[0].getsockname()[1]))
    yield found[0]
    await pool.close()
    server.close()


def answers(*pieces: bytes, pause: float = 0.0, then_wait: bool = True) -> Behaviour:
    """Read one request after another and send the pieces for each."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)
            if not then_wait:
                return

    return behave


async def heard(done: asyncio.Event) -> None:
    """What the upstream has done has come to whoever listens: the loop reads before it looks at the time."""
    await done.wait()
    await asyncio.sleep(0.05)


async def read_all(connection: Connection) -> bytes:
    parts = []
    while data := await connection.read():
        parts.append(data)
    return b"".join(parts)


async def test_a_connection_serves_one_exchange_after_another() -> None:
    async with serving(answers(ANSWER)) as served:
        for _ in range(3):
            connection = await served.ask()
            assert (connection.status, connection.whole()) == (200, b"hello")
            connection.close()
        assert served.connections == 1


async def test_two_exchanges_at_once_have_two_connections() -> None:
    async with serving(answers(ANSWER, pause=0.05)) as served:
        await asyncio.gather(served.ask(), served.ask())
        assert served.connections == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        CHUNKED + b"ffffffffffffffffff\r\nx",
        CHUNKED + b"zz\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX" + b"y" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4_000,
    ],
    ids=lambda sent: repr(sent[:60]),
)
async def test_what_is_not_http_or_has_no_end_is_broken(sent: bytes) -> None:
    async with serving(answers(sent)) as served:
        with pytest.raises(Broken):
            await served.ask()


async def test_an_interim_answer_is_passed_over_with_what_it_says_of_itself() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: gzip\r\nRetry-After: 5\r\n\r\n"
    async with serving(answers(hints + ANSWER)) as served:
        connection = await served.ask()
        assert connection.whole() == b"hello"
        assert (connection.status, connection.encoded, connection.retry_after) == (200, False, b"")


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with serving(answers(b"HTTP/1.1 200 OK\r\n\r\n", b"hello", then_wait=False)) as served:
        connection = await served.ask()
        assert connection.whole() == b"hello"
        connection.close()
        assert served.pool.resting(served.url) is None


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", CHUNKED + b"9\r\n"])
async def test_a_body_that_is_cut_short_is_broken(head: bytes) -> None:
    async with serving(answers(head + b"hello", then_wait=False)) as served:
        with pytest.raises(Broken):
            await served.ask()


async def test_a_body_beyond_the_cap_is_broken() -> None:
    async with serving(answers(CHUNKED, *[b"1000\r\n" + b"x" * 4096 + b"\r\n"] * 100)) as served:
        with pytest.raises(Broken):
            await served.ask(most_bytes=100_000)


async def test_a_second_answer_is_nobodys_and_costs_the_connection() -> None:
    async with serving(answers(ANSWER + ANSWER.replace(b"hello", b"other"))) as served:
        connection = await served.ask()
        assert connection.whole() == b"hello"
        connection.close()
        assert served.pool.resting(served.url) is None


async def test_what_comes_on_a_resting_connection_costs_it() -> None:
    rests, said = asyncio.Event(), asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await rests.wait()
        writer.write(ANSWER)
        said.set()
        await reader.read()

    async with serving(behave) as served:
        (await served.ask()).close()
        rests.set()
        await heard(said)
        assert served.pool.resting(served.url) is None


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_an_upstream_that_says_too_much_has_its_other_connections_used_once(pause: float) -> None:
    """What it says next might come when somebody else has asked."""
    asked, said = 0, asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while await reader.readuntil(b"\r\n\r\n"):
            asked += 1
            writer.write(ANSWER)
            if asked == 2:
                await asyncio.sleep(pause)
                writer.write(ANSWER)
                said.set()

    async with serving(behave) as served:
        resting, talker = [await served.ask() for _ in range(2)]
        for connection in (resting, talker):
            connection.close()
        await heard(said)
        assert served.pool.resting(served.url) is None
        for expected in (3, 4):
            (await served.ask()).close()
            assert served.connections == expected


async def test_a_connection_that_the_upstream_closed_is_not_used_again() -> None:
    async with serving(answers(ANSWER, then_wait=False)) as served:
        for expected in (1, 2):
            (await served.ask()).close()
            await heard(served.closed)
            assert served.connections == expected
            served.closed.clear()


async def test_an_upstream_that_says_how_long_it_waits_is_believed() -> None:
    told = ANSWER.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=0\r\n\r\n")
    async with serving(answers(told)) as served:
        (await served.ask()).close()
        await asyncio.sleep(0.05)
        assert served.pool.resting(served.url) is None


@pytest.mark.parametrize(
    ("pieces", "whole", "patience", "first_byte"),
    [
        ((), True, {"total": 0.2}, True),
        ((), True, {"first_byte": 0.2}, True),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"hel"), True, {"idle": 0.2}, False),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"hel"), True, {"total": 0.3}, False),
    ],
)
async def test_silence_ends_by_its_own_deadline(
    pieces: tuple[bytes, ...], whole: bool, patience: dict[str, Any], first_byte: bool
) -> None:
    async with serving(answers(*pieces)) as served:
        with pytest.raises(TooSlow) as raised:
            await served.ask(whole=whole, **patience)
        assert raised.value.first_byte is first_byte


async def test_a_stream_that_falls_silent_ends_after_what_came_before() -> None:
    async with serving(answers(CHUNKED + b"5\r\nhello\r\n")) as served:
        connection = await served.ask(whole=False, idle=0.2)
        assert await connection.read() == b"hello"
        with pytest.raises(TooSlow):
            await connection.read()


async def test_a_body_that_drips_slower_than_the_least_rate_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumption.upstream_connection.RATE_WINDOW_SECONDS", 0.3)
    async with serving(answers(CHUNKED, *[b"1\r\nx\r\n"] * 200, pause=0.02)) as served:
        with pytest.raises(TooSlow):
            await served.ask(least_rate=10_000)


async def test_a_body_at_the_least_rate_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumption.upstream_connection.RATE_WINDOW_SECONDS", 0.25)
    async with serving(answers(CHUNKED, *[b"1\r\nx\r\n"] * 30, b"0\r\n\r\n", pause=0.02)) as served:
        for _ in range(5):
            with contextlib.suppress(TooSlow):  # a machine that stalls for a window brings nothing in it
                assert (await served.ask(least_rate=1)).whole() == b"x" * 30
                break
        else:
            pytest.fail("too slow each time")


async def test_a_caller_who_does_not_read_holds_the_upstream_back() -> None:
    sent = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED)
        for _ in range(500):
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()
            sent += 65_536
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async with serving(behave) as served:
        connection = await served.ask(whole=False, most_bytes=100_000_000, idle=0.9)
        await asyncio.sleep(1.0)
        held_back_at = sent
        assert held_back_at < 20_000_000
        # Nor is its silence the upstream's.
        assert len(await read_all(connection)) == 500 * 65_536


async def test_a_closed_port_is_not_connected() -> None:
    async with serving(answers()) as served:
        pool = served.pool
    with pytest.raises(NotConnected):
        await pool.connect(served.url, seconds=2)


async def test_no_more_connections_than_allowed() -> None:
    async with serving(answers()) as served:
        for _ in range(10):
            await served.pool.connect(served.url, seconds=2)
        with pytest.raises(NoPlace):
            await served.pool.connect(served.url, seconds=2)


async def test_a_resting_connection_makes_place_for_a_new_one() -> None:
    async with serving(answers(ANSWER)) as served:
        (await served.ask()).close()
        for _ in range(10):
            await served.pool.connect(served.url, seconds=2)
        assert served.pool.resting(served.url) is None


async def test_an_address_that_may_not_be_connected_to_is_not(settings: object) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []  # type: ignore[attr-defined]
    async with serving(answers(ANSWER)) as served:
        with pytest.raises(NotConnected):
            await served.pool.connect(served.url, seconds=2)
        assert served.connections == 0
