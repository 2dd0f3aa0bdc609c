"""The process of ``bench.in_process``: a gateway, and the other ends of all its connections.

For every line of its input, a number, it serves so many calls and tells the microseconds of CPU that one took. It runs
another checkout's code as well, so it asks little of what it measures.
"""

import asyncio
import gc
import json
import os
import random
import socket
import struct
import sys
import time
import uuid
from collections.abc import Callable
from decimal import Decimal
from itertools import cycle
from typing import Any

sys.path[0] = os.getcwd()  # the checkout that is measured, not the one that this file is in

import django

django.setup()

import hiredis
import uvloop
from uvicorn import Config
from uvicorn.server import ServerState

from bench.calls import target
from bench.nginx import ANSWER
from catalog.limits import Limits
from catalog.pricing import Price
from catalog.snapshot import Endpoint, Offer, PricedVersion, Snapshot
from consumption import runtime
from consumption.lane import LaneProtocol
from keys import format as key_format
from keys.grants import Grant, KeyLimits, StoredKey
from quotas import commands

CONNECTIONS = 64
UPSTREAM_PORT, VALKEY_PORT = 8, 9  # nobody is ever connected to
SERVICES, KEYS = 20, 200
BODY = json.dumps(ANSWER, separators=(",", ":")).encode()
#: As nginx says it.
ANSWERED = (
    b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\nConnection: keep-alive\r\n\r\n%b" % (len(BODY), BODY)
)
LIFE = b"run"


class Loopback(asyncio.Transport):
    """A transport whose other end is a function, told what is written."""

    def __init__(self, protocol: Any, written: Callable[[bytes], object], descriptor: Any = None) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2), "socket": descriptor})
        self._protocol, self._written, self._closing = protocol, written, False

    def told(self, data: bytes) -> None:
        """What the other end says."""
        protocol = self._protocol
        if isinstance(protocol, asyncio.BufferedProtocol):
            buffer: Any = protocol.get_buffer(len(data))
            buffer[: len(data)] = data
            protocol.buffer_updated(len(data))
        else:
            protocol.data_received(data)

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def write(self, data: Any) -> None:
        self._written(data)

    def is_closing(self) -> bool:
        return self._closing

    def resume_reading(self) -> None:
        pass

    def abort(self) -> None:
        self._closing = True
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    close = abort


class Valkey:
    """Lets everything in, and settles it."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        admitted, settled = struct.pack(">4d", 64, 999_999, 1, 1_000_000), b"1790000000000-0"
        answers = {commands.ADMIT.sha: admitted, commands.SETTLE.sha: settled}
        self._answers = {sha.encode(): _bulk(answer) for sha, answer in answers.items()}

    def answer(self, data: bytes) -> bytes:
        if scripts := data.split(b"EVALSHA\r\n$40\r\n")[1:]:
            return b"".join([self._answers[script[:40]] for script in scripts])
        self._reader.feed(data)
        answers = []
        while (command := self._reader.gets()) is not False:
            answers.append(self._one(command))
        return b"".join(answers)

    def _one(self, command: list[bytes]) -> bytes:
        match command[0]:
            case b"GET":
                return _bulk(b"1:" + LIFE)
            case b"MGET":  # of a shard: its epoch, and two that are not there
                return b"*3\r\n" + _bulk(b"1:" + LIFE) + b"$-1\r\n" * 2
            case b"INFO":
                return _bulk(b"run_id:" + LIFE + b"\naof_enabled:1\nmaxmemory_policy:noeviction")
            case b"CONFIG":
                return b"*0\r\n"
            case b"TIME":
                seconds, micros = divmod(time.time_ns() // 1000, 10**6)
                return b"*2\r\n" + _bulk(b"%d" % seconds) + _bulk(b"%d" % micros)
            case _:
                return b"+OK\r\n"


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


class Socket:
    """What is asked of the sockets under the gateway's own connections."""

    def __init__(self) -> None:
        self._silent, self._other_end = socket.socketpair()

    def fileno(self) -> int:
        return self._silent.fileno()

    def setsockopt(self, *_: object) -> None:
        pass


class Loop(uvloop.Loop):
    """Whoever connects is connected to what always answers the same, in the next turn."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = Socket()

    async def create_connection(  # type: ignore[override]  # as it is called here
        self, make: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        answer = Valkey().answer if port == VALKEY_PORT else lambda _: ANSWERED
        protocol = make()
        transport = Loopback(
            protocol, lambda data: self.call_soon(lambda: transport.told(answer(data))), self._socket
        )
        protocol.connection_made(transport)
        return transport, protocol


class Client:
    """A connection of the lane's, on which one call follows the other as long as there are any."""

    def __init__(self, load: "Load", protocol: LaneProtocol) -> None:
        self._load, self._protocol = load, protocol
        protocol.connection_made(Loopback(protocol, self.answered))

    def ask(self) -> None:
        self._load.left -= 1
        self._protocol.data_received(next(self._load.requests))

    def answered(self, data: bytes) -> None:
        load = self._load
        if not data.startswith(b"HTTP/1.1 200 "):
            load.done.set_exception(AssertionError(data))
        elif load.left > 0:
            load.loop.call_soon(self.ask)
        else:
            load.open -= 1
            if not load.open:
                load.done.set_result(None)


async def no_application(scope: object, receive: object, send: object) -> None:
    """The lane leaves nothing to it here."""


class Load:
    """All clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop, requests: list[bytes]) -> None:
        self.loop, self.requests = loop, cycle(requests)
        config = Config(no_application, ws="none", lifespan="off", access_log=False, log_config=None)
        config.load()
        state = ServerState()
        self.left = self.open = 0
        self.clients = [
            Client(self, LaneProtocol(config=config, server_state=state, app_state={}, _loop=loop))
            for _ in range(CONNECTIONS)
        ]

    async def serve(self, calls: int) -> None:
        self.done = self.loop.create_future()
        self.left, self.open = calls, CONNECTIONS
        for client in self.clients:
            client.ask()
        await self.done


def offer(number: int) -> Offer:
    endpoint = Endpoint(uuid.uuid4(), f"http://127.0.0.1:{UPSTREAM_PORT}/v1", "openai", "bench", 1, 0)
    price = PricedVersion(uuid.uuid4(), 0, Price("per_token", "USD", rates(), single=True))
    told: dict[str, Any] = {
        "id": uuid.uuid4(), "name": f"bench-{number}", "version": "1.0", "base_url": endpoint.base_url,
        "model": "bench", "status": "active", "region": "", "clearance": 3, "default_max_tokens": 1024,
        "deadline_seconds": 60, "stream_deadline_seconds": 600, "connect_seconds": 5, "first_byte_seconds": 30,
        "idle_seconds": 30, "least_bytes_per_second": None, "on_client_gone": "cancel", "local": False,
        "tokenizer": "", "fallback_id": None, "testing": False, "endpoints": (endpoint,), "prices": (price,),
    }  # fmt: skip
    return Offer(**told)


def rates() -> dict[str, Decimal]:
    return dict.fromkeys(("prompt", "completion"), Decimal("0.0000025"))


def key(services: list[Offer]) -> tuple[str, StoredKey]:
    """The text of a new key that opens these services, and what is known of it."""
    new, id_ = key_format.mint(), uuid.uuid4()
    grant = Grant(
        api_key_id=id_, public_id=new.public_id, consumer_id=uuid.uuid4(), residency="", service_id=None,
        tier="bench", tiers={each.id: "bench" for each in services}, expires_at_ms=None, blocked=False,
        scopes=frozenset({"consume"}), networks=None, testing=False, limits=KeyLimits(id_),
    )  # fmt: skip
    return new.text, StoredKey(grant, "a hash")


async def started() -> Load:
    """A gateway that knows its keys and services already: there is no database."""
    running = runtime.Runtime()
    runtime._current = running
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await running.line.start()
    gateway = running.gateway
    offers = [offer(number) for number in range(SERVICES)]
    by_id, by_name = {each.id: each for each in offers}, {each.name: each for each in offers}
    gateway.snapshot = Snapshot(offers=by_id, tiers={"bench": Limits(1_000_000, 10**14)}, names=by_name)
    calls = []
    proofs, states = gateway.keyring._proofs, gateway.keyring._states
    for number in range(KEYS):
        opened = [offers[(number * 5 + more) % SERVICES] for more in range(5)]
        text, stored = key(opened)
        proofs.remember(proofs.digest(text), stored.key_hash)
        states.held[stored.grant.public_id] = stored
        calls += [(text, each.name) for each in opened]
    while not running.admission.is_live:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    random.Random(1).shuffle(calls)  # noqa: S311 - an order, not a secret  # nosec B311
    load = Load(asyncio.get_running_loop(), target("here", "", calls).requests())
    await load.serve(2 * len(calls))
    return load


def main() -> None:
    loop = Loop()
    load = loop.run_until_complete(started())
    for line in sys.stdin:
        calls = int(line)
        loop.run_until_complete(load.serve(CONNECTIONS))  # what was missed meanwhile is caught up with
        began = time.thread_time_ns()
        loop.run_until_complete(load.serve(calls))
        sys.stdout.write(f"{(time.thread_time_ns() - began) / calls / 1000:.2f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
