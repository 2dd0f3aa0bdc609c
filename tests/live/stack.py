"""The whole service as processes on loopback, for tests that look at it from outside."""

import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import redis
import requests

from devstack.children import Child, gateway_command, upstream_command
from devstack.ports import free_port
from devstack.valkey import Valkey
from tests import factories
from tests.harness.servers import ROOT
from tests.harness.waiting import wait_for


@dataclass
class Stack:
    """A sample upstream, a drain and as many gateways as a test starts, on one database and one Valkey."""

    folder: Path
    database_url: str
    valkey: Valkey
    children: list[Child] = field(default_factory=list)
    upstream_port: int = 0
    drain: Child = field(init=False)

    @property
    def upstream_log(self) -> Path:
        return self.folder / "upstream.jsonl"

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}/v1"

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.valkey.url,
            "SPOOL_DIR": str(self.folder / "spool"),
            "SAMPLE_UPSTREAM_LOG": str(self.upstream_log),
            **more,
        }

    def start_child(
        self, name: str, command: list[str], *, ready_url: str | None = None, **environment: str
    ) -> Child:
        child = Child(
            name,
            command,
            env=self.environment(**environment),
            log=self.folder / f"{name}.log",
            cwd=ROOT,
            ready_url=ready_url,
        )
        child.start()
        self.children.append(child)
        if ready_url is not None:
            wait_for(lambda: answers(ready_url), seconds=60)
        return child

    def start_upstream(self) -> Child:
        self.upstream_port = self.upstream_port or free_port()
        return self.start_child(
            "upstream",
            upstream_command(self.upstream_port),
            ready_url=f"http://127.0.0.1:{self.upstream_port}/health",
        )

    def start_slow_upstream(self, *, latency_ms: int) -> str:
        """Another sample upstream, a slow one; returns its base URL."""
        port = free_port()
        self.start_child(
            f"upstream-{port}",
            upstream_command(port),
            ready_url=f"http://127.0.0.1:{port}/health",
            SAMPLE_UPSTREAM_LATENCY_MS=str(latency_ms),
            SAMPLE_UPSTREAM_LOG=str(self.folder / f"upstream-{port}.jsonl"),
        )
        return f"http://127.0.0.1:{port}/v1"

    def start_drain(self, **environment: str) -> Child:
        self.drain = self.start_child("drain", [sys.executable, "manage.py", "drain_usage"], **environment)
        return self.drain

    @contextlib.contextmanager
    def drain_held(self) -> Iterator[None]:
        """Nothing is drained meanwhile, though the drain is there and keeps its shards."""
        process = self.drain._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def start_gateway(
        self,
        *,
        port: int = 0,
        lane: bool = True,
        drain_seconds: int = 15,
        workers: int = 1,
        **environment: str,
    ) -> "GatewayProcess":
        port = port or free_port()
        url = f"http://127.0.0.1:{port}"
        name = f"gateway-{port}"
        child = self.start_child(
            name,
            gateway_command(port, drain_seconds=drain_seconds, workers=workers),
            ready_url=f"{url}/health/ready",
            PROCESS="gateway",
            LANE="on" if lane else "off",
            PORT=str(port),
            **environment,
        )
        return GatewayProcess(child, url, port)

    def logged_calls(self) -> dict[str, dict[str, Any]]:
        """What the upstream answered, by request id, from its own log."""
        if not self.upstream_log.exists():
            return {}
        lines = self.upstream_log.read_text().splitlines()
        return {call["request_id"]: call for call in map(json.loads, lines)}

    def valkey_client(self) -> "redis.Redis":
        return redis.Redis.from_url(self.valkey.url)

    def valkey_events(self) -> list[bytes]:
        """The events that gateways have put on the stream."""
        found: Any = self.valkey_client().xrange("marketplace:events")
        return [fields[b"e"] for _, fields in found]

    def stop(self) -> None:
        for child in reversed(self.children):
            child.ask_to_stop()
        for child in reversed(self.children):
            child.finish(deadline=time.monotonic() + 10.0, impatient=lambda: False)


#: How often a call is made that the machine was too busy for, a twentieth of a second apart.
TRIES = 40


def patiently(call: Callable[[], requests.Response], *, tries: int = TRIES) -> requests.Response:
    """The answer to a call, which is made again, as clients do, where nothing was done for want of time."""
    answer = call()
    for _ in range(tries - 1):
        if not _came_too_soon(answer.status_code, lambda: answer.content):  # noqa: B023 - asked here
            break
        time.sleep(0.05)
        answer = call()
    return answer


class Patient(httpx2.HTTPTransport):
    """The same for the official clients, which themselves would make other calls again too."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        response = super().handle_request(request)
        for _ in range(TRIES - 1):
            if not _came_too_soon(response.status_code, response.read):
                break
            time.sleep(0.05)
            response = super().handle_request(request)
        return response


def _came_too_soon(status: int, body: Callable[[], bytes]) -> bool:
    return status == 503 and b'"unavailable"' in body()


@dataclass
class GatewayProcess:
    """One gateway and how to call it."""

    child: Child
    url: str
    port: int

    def consume(
        self, service_id: object, key: str | None, body: Any, *, wait: float = 20.0, tries: int = TRIES
    ) -> requests.Response:
        """``body``: bytes as they are, anything else as JSON. A service that was just made is waited for ``wait`` s."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.url}/api/v1/consume/{service_id}"
        deadline = time.monotonic() + wait
        while True:
            answer = patiently(
                lambda: requests.post(url, data=data, headers=headers, timeout=40), tries=tries
            )
            if b'"service_not_found"' not in answer.content or time.monotonic() > deadline:
                return answer

    def wait_for_service(self, service_id: uuid.UUID, key: str) -> None:
        """Returns when the gateway would serve the service to the key."""
        wait_for(lambda: str(service_id) in self.get("/v1/models", key).text)

    def catch_up(self) -> None:
        """Returns when the gateway has heard of whatever was changed in the catalogue before this."""
        key, text = factories.make_key()
        assert key.service_id is not None
        self.wait_for_service(key.service_id, text)

    def get(self, path: str, key: str | None = None) -> requests.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return requests.get(self.url + path, headers=headers, timeout=10)

    def kill(self) -> None:
        """SIGKILL, the server and what it forked."""
        self.child.kill()

    def terminate(self) -> None:
        self.child.ask_to_stop()


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).status_code == 200
    except requests.RequestException:
        return False
