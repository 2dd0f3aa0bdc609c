"""Where everything is and what the processes are told: folders, ports, secrets, environment."""

import base64
import json
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from devstack.errors import DevstackError
from devstack.ports import free_port, is_free
from devstack.private import private_folder, write_private

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 8000
LOOPBACK = "127.0.0.0/8,::1/128"
# Of the caller's environment, what would change how the children run, or make them take us for `make`.
NOT_PASSED_ON = ("PROCESS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DEBUG", "DJANGO_SETTINGS_MODULE")


@dataclass(frozen=True)
class Ports:
    gateway: int
    console: int
    upstream: int


def wanted_port() -> int:
    given = os.environ.get("PORT") or str(DEFAULT_PORT)
    # Two more follow it.
    if not given.isdecimal() or not 1 <= int(given) <= 65_533:
        raise DevstackError(f"PORT must be a number from 1 to 65533, not {given!r}")
    return int(given)


def choose_ports() -> Ports:
    gateway = wanted_port()
    for port in (gateway, gateway + 1):
        if not is_free(port):
            raise DevstackError(f"port {port} on 127.0.0.1 is busy: choose another with PORT=")
    upstream = gateway + 2
    return Ports(gateway, gateway + 1, upstream if is_free(upstream) else free_port())


def made_secrets() -> dict[str, str]:
    """Fresh secrets of an installation, by the names that its environment has for them."""
    return {
        "SECRET_KEY": secrets.token_hex(32),
        "KEY_PEPPERS": json.dumps({"1": secrets.token_hex(32)}),
        "CREDENTIAL_KEYS": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }


@dataclass
class Layout:
    """One installation on one machine: everything it writes is under `var`."""

    root: Path = ROOT
    var: Path = ROOT / "var"

    @property
    def logs(self) -> Path:
        return self.var / "log"

    @property
    def servers_file(self) -> Path:
        return self.var / "servers.json"

    @property
    def demo_file(self) -> Path:
        return self.var / "demo.json"

    @property
    def upstream_log(self) -> Path:
        return self.var / "sample_upstream.jsonl"

    def log(self, name: str) -> Path:
        return private_folder(self.logs) / f"{name}.log"

    def secrets(self) -> dict[str, str]:
        """What `made_secrets` names, as the children's environment has it; each made once, and kept."""
        path = self.var / "secrets.json"
        kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        made = made_secrets()
        if not made.keys() <= kept.keys():
            kept = made | kept
            write_private(path, json.dumps(kept, indent=2) + "\n")
        return {name: os.environ.get(name) or value for name, value in kept.items()}


@dataclass(frozen=True)
class Surroundings:
    """What every process of the application is told by its environment."""

    layout: Layout
    ports: Ports
    database_url: str
    redis_url: str

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def console_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.console}"

    @property
    def upstream_url(self) -> str:
        """As an OpenAI client's `base_url`."""
        return f"http://127.0.0.1:{self.ports.upstream}/v1"

    @property
    def upstream_networks(self) -> str:
        return os.environ.get("UPSTREAM_ALLOWED_NETWORKS") or LOOPBACK

    @property
    def spool(self) -> Path:
        return self.layout.var / "spool"

    @property
    def anchors(self) -> Path:
        return self.layout.var / "audit-anchors"

    def environment(self, process: str) -> dict[str, str]:
        passed_on = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        return passed_on | self.layout.secrets() | {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "PORT": str(self.ports.gateway),
            "CONSOLE_URL": self.console_url,
            "SPOOL_DIR": str(private_folder(self.spool)),
            "AUDIT_ANCHOR_FILE": str(self.anchors),
            "UPSTREAM_ALLOWED_NETWORKS": self.upstream_networks,
            "SECOND_FACTOR_REQUIRED": os.environ.get("SECOND_FACTOR_REQUIRED") or "off",
            "PROCESS": process,
            "PYTHONUNBUFFERED": "1",
            "SAMPLE_UPSTREAM_LOG": str(self.layout.upstream_log),
        }  # fmt: skip

    def announce_servers(self) -> None:
        """For a `manage.py` that somebody types: the settings look here for what the environment lacks."""
        kept = self.layout.secrets()
        found = {
            "database_url": self.database_url,
            "redis_url": self.redis_url,
            "secret_key": kept["SECRET_KEY"],
            "key_peppers": json.loads(kept["KEY_PEPPERS"]),
            "credential_keys": kept["CREDENTIAL_KEYS"],
            "spool_dir": str(self.spool),
            "audit_anchor_file": str(self.anchors),
            "upstream_allowed_networks": self.upstream_networks,
            "console_url": self.console_url,
            "port": str(self.ports.gateway),
        }
        write_private(self.layout.servers_file, json.dumps(found, indent=2) + "\n")


def manage(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", *arguments]
