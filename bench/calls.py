"""The calls of the load, as bytes to be sent."""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

PATH = "/v1/chat/completions"
QUESTION = "Explain in one sentence what a quantum computer does that a classical one does not."
MAX_TOKENS = 64
# A gateway that waits too long for a busy Valkey answers 503 and consumes nothing. More than this share of the calls,
# and the run is not valid.
MOST_REFUSED = 0.001


@dataclass(frozen=True)
class Target:
    """Somebody who answers chat completions. `calls`: headers and model of each call of the rotation."""

    name: str
    url: str
    calls: tuple[tuple[dict[str, str], str], ...]
    path: str = PATH

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 80

    def requests(self, **options: object) -> list[bytes]:
        """Every call of the rotation as it goes over the wire; `options` are further fields of its body."""
        return [request(self.path, headers, body_of(model, **options)) for headers, model in self.calls]

    def streams(self, count: int, **options: object) -> list[bytes]:
        """So many streamed calls, by the same rotation."""
        calls = self.requests(stream=True, **options)
        return [calls[number % len(calls)] for number in range(count)]


def target(name: str, url: str, calls: list[tuple[str, str]]) -> Target:
    """`calls`: key and model of each call."""
    return Target(name, url, tuple(({"Authorization": f"Bearer {key}"}, model) for key, model in calls))


def body_of(model: str, **options: object) -> str:
    messages = [
        {"role": "system", "content": "You are a helpful assistant. Answer briefly and precisely."},
        {"role": "user", "content": QUESTION},
    ]
    return json.dumps({"model": model, "messages": messages, "max_tokens": MAX_TOKENS, **options})


def request(path: str, headers: dict[str, str], body: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json",
        f"Content-Length: {len(body.encode())}", *(f"{name}: {value}" for name, value in headers.items()),
    ]  # fmt: skip
    return "\r\n".join([*lines, "", body]).encode()
