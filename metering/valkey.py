"""The jobs' connection to Valkey: bytes in and out, every wait bounded, nothing repeated behind the caller's back."""

from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Seconds for one answer. Longer than the longest blocking read.
SOCKET_TIMEOUT = 5.0


class ServerChanged(redis.ConnectionError):
    """The connection broke and came back to another server, or to another life of the same one."""


def connect() -> redis.Redis:
    """A client for jobs. Its errors are ``redis.RedisError``; none is retried."""
    return _client()


class OneLife:
    """A client that speaks to one life of one server and to no other.

    ``run_id`` names that life. A connection that comes back to anything else raises ``ServerChanged`` instead of
    sending, so what was read from one life is never acknowledged in another.
    """

    def __init__(self) -> None:
        self.run_id = ""
        self.client = _client(redis_connect_func=self._greet)
        # The reply as it comes: turning each entry into a dictionary costs more than reading it.
        self.client.set_response_callback("XREAD", _as_it_comes)
        self.client.ping()

    def _greet(self, connection: Any) -> None:
        connection.on_connect()
        connection.send_command("INFO", "server")
        run_id = _run_id(connection.read_response())
        if self.run_id not in ("", run_id):
            raise ServerChanged("Valkey was restarted or replaced")
        self.run_id = run_id

    def close(self) -> None:
        self.client.close()


def _client(**options: Any) -> redis.Redis:
    return redis.Redis.from_url(
        settings.REDIS_URL,
        protocol=2,
        decode_responses=False,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=2.0,
        retry=Retry(NoBackoff(), 0),
        **options,
    )


def _as_it_comes(reply: Any, **_: Any) -> Any:
    return reply


def _run_id(info: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line[7:].decode()
    raise redis.ResponseError("INFO names no run_id")
