"""A client resets its connection at any moment: what was done for it is charged once, over both transports alike."""

import json
import socket
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import transaction

from keys.models import ApiKey
from metering import shards
from metering.models import UsageRecord
from tests import factories
from tests.harness import hostile
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack
from tests.live.test_contract import PROMPT, counters


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with hostile.hostile_upstream() as server:
        yield server


@dataclass
class Leaving:
    """When a client goes: once it has read ``until``; what then is on record, by the service's ``on_client_gone``."""

    behaviour: str
    until: bytes
    cancel: tuple[str, str, int]
    drain: tuple[str, str, int]


SERVED = ("success", "reported", 11)
DRAINED = ("cancelled", "reported", 11)
NOTHING = ("cancelled", "none", 0)
#: Of what was delivered the prompt is counted too: the text itself, and what a template adds.
PROMPT_COUNT = 15
LEAVINGS = (
    Leaving("works-late", b"", SERVED, SERVED),
    Leaving("stream-late", b"", NOTHING, DRAINED),
    Leaving("stream-head-first", b"\r\n\r\n", NOTHING, DRAINED),
    Leaving("stream-in-halves", b"one ", ("cancelled", "estimated", PROMPT_COUNT + 2), DRAINED),
    Leaving("stream-done-late", b"one ", DRAINED, DRAINED),
    Leaving("stream-whole", b"[DONE]", SERVED, SERVED),
)


class Caller:
    """A client that resets its connection, and the key that it calls with."""

    def __init__(self, gateway: GatewayProcess, upstream: Any, leaving: Leaving, mode: str) -> None:
        self.leaving, self.mode, self.gateway = leaving, mode, gateway
        host, port = upstream.server_address
        endpoint = f"http://{host}:{port}/{leaving.behaviour}"
        self.service = factories.make_service(endpoint=endpoint, on_client_gone=mode)
        self.key, self.text = factories.make_key(service=self.service)

    def call(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.gateway.port), timeout=10)
        body = json.dumps({**PROMPT, "stream": self.leaving.behaviour.startswith("stream")}).encode()
        head = (
            f"POST /api/v1/consume/{self.service.id} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {self.text}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + body)

    def leave(self) -> None:
        data = b""
        while self.leaving.until not in data:
            data += self.socket.recv(65_536)
        assert not data or data.startswith(b"HTTP/1.1 200")
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def on_record(key: ApiKey) -> UsageRecord:
    wait_for(lambda: UsageRecord.objects.filter(api_key_id=key.id).exists(), seconds=10)
    return UsageRecord.objects.get(api_key_id=key.id)


def leases(stack: Stack, key: ApiKey) -> list[uuid.UUID]:
    found: Any = stack.valkey_client().hkeys(shards.leases_key(shards.shard_of(key.consumer_id)))
    return [uuid.UUID(id_.decode()) for id_ in found]


def test_a_client_that_resets_its_connection_is_charged_once_for_what_was_done(
    gateway: GatewayProcess, stack: Stack, upstream: Any
) -> None:
    with transaction.atomic():  # the gateway hears of all of them at once
        callers = [
            Caller(gateway, upstream, leaving, mode) for leaving in LEAVINGS for mode in ("cancel", "drain")
        ]
    for caller in callers:
        gateway.wait_for_service(caller.service.id, caller.text)
    hostile.MAY_GO_ON.clear()
    upstream.calls.clear()
    for caller in callers:
        caller.call()
    wait_for(lambda: len(upstream.calls) == len(callers), seconds=10)
    for caller in callers:
        caller.leave()
    # Where nothing is drained a stream has ended by now. The others learn no later that their clients have gone.
    for caller in callers:
        if caller.mode == "cancel" and caller.leaving.until:
            on_record(caller.key)
    hostile.MAY_GO_ON.set()
    wait_for(lambda: "consumption_open_calls 0.0" in gateway.get("/metrics").text, seconds=10)
    for caller in callers:
        row = on_record(caller.key)
        expected = getattr(caller.leaving, caller.mode)
        told = (row.status, row.usage["usage_source"], row.total_tokens)
        assert told == expected, (caller.leaving.behaviour, caller.mode)
        used = {b"used": str(row.total_tokens).encode(), b"reserved": b"0"}
        assert counters(stack, caller.key, caller.service) == used
        assert row.id not in leases(stack, caller.key)
