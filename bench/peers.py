"""The other gateways: where each comes from, how it is started with its limits off, and what it does not do.

Each is installed by name, at a fixed version, in an environment of its own below `var/bench/peers` on first use.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.calls import PATH, Target
from bench.errors import BenchError
from bench.nginx import Nginx
from bench.process import Process
from devstack.ports import free_port
from devstack.private import private_folder
from devstack.process import last_line, spawn

INSTALL_SECONDS = 900
MASTER_KEY = "sk-bench-master"
NOBODYS_KEY = "sk-nobody"


@dataclass(frozen=True)
class Place:
    """Where one peer is installed and what it is to call. `port` is for it to listen on, where it can be told."""

    folder: Path
    upstream: Nginx
    port: int = field(default_factory=free_port)

    def bin(self, name: str) -> Path:
        return self.folder / "bin" / name

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path


@dataclass(frozen=True)
class Start:
    """How it is started, and how it is called. `ready` answers 200 once it serves; without it, its log tells."""

    command: list[str | Path]
    headers: dict[str, str]
    model: str
    ready: str = ""
    env: dict[str, str] = field(default_factory=dict)
    path: str = PATH
    # It chooses its own port and says its URL in its log, after this word.
    url_after: str = ""
    # Calls that wait for a slow gateway are still to be counted when nothing new is sent.
    rest: int = 1


@dataclass(frozen=True)
class Recipe:
    name: str
    requirement: str
    language: str
    does_not: str
    start: Callable[[Place], Start]

    @property
    def version(self) -> str:
        return self.requirement.rpartition("@" if self.requirement.startswith("@") else "==")[2]


def start_tensorzero(place: Place) -> Start:
    configuration = place.write(
        "tensorzero.toml",
        "[gateway]\nobservability.enabled = false\ndisable_pseudonymous_usage_analytics = true\n"
        '[models.bench]\nrouting = ["up"]\n[models.bench.providers.up]\ntype = "openai"\nmodel_name = "bench"\n'
        f'api_base = "{place.upstream.url}/v1/"\napi_key_location = "none"\n',
    )
    code = (
        "import signal, sys, tensorzero\n"
        "gateway = tensorzero._start_http_gateway(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None,"
        " valkey_url=None, async_setup=False)\n"
        "print('URL', gateway.base_url, flush=True)\n"
        "signal.pause()\n"
    )
    return Start(
        [place.bin("python"), "-c", code, configuration],
        headers={},
        model="tensorzero::model_name::bench",
        path="/openai/v1/chat/completions",
        url_after="URL ",
    )


def start_ferro(place: Place) -> Start:
    configuration = place.write(
        "ferro.yaml", "strategy:\n  mode: single\ntargets:\n  - virtual_key: openai\n"
    )
    return Start(
        [place.bin("ferrogw"), "serve"],
        ready="/health",
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        model="gpt-4o-mini",
        env={
            "MASTER_KEY": MASTER_KEY,
            "OPENAI_API_KEY": NOBODYS_KEY,
            "OPENAI_BASE_URL": f"{place.upstream.url}/v1",
            "FERRO_MODEL_CATALOG_URL": f"{place.upstream.url}/none",
            "GATEWAY_CONFIG": str(configuration),
            "RATE_LIMIT_RPS": "0",
            "LOG_LEVEL": "error",
            "PORT": str(place.port),
        },
    )


def start_portkey(place: Place) -> Start:
    node = shutil.which("node")
    if node is None:
        raise BenchError("node is missing")
    script = place.folder / "node_modules/@portkey-ai/gateway/build/start-server.js"
    return Start(
        [node, script, f"--port={place.port}", "--headless"],
        ready="/",
        headers={
            "Authorization": f"Bearer {NOBODYS_KEY}",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"{place.upstream.url}/v1",
        },
        model="gpt-4o-mini",
        env={"NODE_ENV": "production"},
    )


def start_litellm(place: Place) -> Start:
    served = {"model": "openai/bench", "api_base": f"{place.upstream.url}/v1", "api_key": NOBODYS_KEY}
    configuration = {
        "model_list": [{"model_name": "bench", "litellm_params": served}],
        "general_settings": {"master_key": MASTER_KEY},
        "litellm_settings": {"telemetry": False},
    }
    path = place.write("litellm.yaml", json.dumps(configuration))  # JSON is YAML
    return Start(
        [
            place.bin("litellm"), "--config", path, "--host", "127.0.0.1", "--port", str(place.port),
            "--num_workers", "1", "--telemetry", "False",
        ],
        ready="/health/liveliness",
        headers={"Authorization": f"Bearer {MASTER_KEY}"},
        model="bench",
        env={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        rest=4,
    )  # fmt: skip


RECIPES = (
    Recipe(
        "TensorZero", "tensorzero==2026.6.0", "Rust", "no keys, limits, prices or records", start_tensorzero
    ),
    Recipe("Ferro", "ferrogw==1.5.10", "Go", "one master key; no limits, prices or records", start_ferro),
    Recipe(
        "Portkey", "@portkey-ai/gateway@1.15.2", "Node", "no keys, limits, prices or records", start_portkey
    ),
    Recipe(
        "LiteLLM",
        "litellm[proxy]==1.106.12",
        "Python",
        "one master key; no limits, no database",
        start_litellm,
    ),
)


class Peer(Process):
    """One of them, started."""

    def __init__(self, recipe: Recipe, folder: Path, upstream: Nginx) -> None:
        self.recipe = recipe
        self._place = Place(private_folder(folder / recipe.name.lower()), upstream)
        self._start = recipe.start(self._place)
        env = {"PATH": "/usr/bin:/bin", "HOME": str(self._place.folder), "LANG": "C.UTF-8"} | self._start.env
        super().__init__(
            recipe.name, self._start.command, cwd=self._place.folder, log=self._place.folder / "log", env=env
        )
        self.rest = self._start.rest
        self.url = f"http://127.0.0.1:{self._place.port}"

    @property
    def target(self) -> Target:
        return Target(self.name, self.url, ((self._start.headers, self._start.model),), self._start.path)

    def launch(self, core: int) -> None:
        """Installed where it is not yet. Raises BenchError where it cannot be installed or does not start."""
        install(self.recipe.requirement, self._place.folder)
        self.start(core)
        if self._start.url_after:
            self.url = self.said(self._start.url_after).rpartition("/openai")[0]
        if self._start.ready:
            self.wait_for(self.url + self._start.ready)


def install(requirement: str, folder: Path) -> None:
    mark = folder / "installed"
    if mark.exists() and mark.read_text() == requirement:
        return
    log = folder / "install.log"
    commands: list[list[str | Path]] = (
        [["npm", "install", "--prefix", folder, "--no-audit", "--no-fund", requirement]]
        if requirement.startswith("@")
        else [
            [sys.executable, "-m", "venv", folder],
            [folder / "bin/python", "-m", "pip", "install", requirement],
        ]
    )
    for command in commands:
        try:
            code = spawn(command, cwd=folder, log=log).wait(INSTALL_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{requirement} cannot be installed: {error}") from error
        if code:
            raise BenchError(f"{requirement} cannot be installed: {last_line(log)} (see {log})")
    mark.write_text(requirement)
