"""The processes of the application: how each is started, stopped, and started again when it dies."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from devstack.layout import Surroundings, manage
from devstack.process import spawn

# A child that dies again within this time is given longer and longer before its next start.
STEADY_SECONDS = 10.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.2, 10.0
POLL_SECONDS = 0.02
# One worker has nobody to look for, which it would do for a second at its start.
ALONE = ("--without-gossip", "--without-mingle")


@dataclass
class Backoff:
    """No wait after a first death: a killed gateway is back at once. Doubling waits in a crash loop."""

    started_at: float = 0.0
    deaths: int = 0

    def started(self) -> None:
        self.started_at = time.monotonic()

    def died(self) -> float:
        """Seconds to wait before the next start."""
        if time.monotonic() - self.started_at > STEADY_SECONDS:
            self.deaths = 0
        self.deaths += 1
        if self.deaths == 1:
            return 0.0
        return float(min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** (self.deaths - 2)))


@dataclass
class Child:
    """A process in a session of its own, with what it forks."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    cwd: Path
    inherit: Sequence[int] = ()
    stop_seconds: float = 20.0
    # Answers 200 here when it is ready; without an address it counts as ready while it lives.
    ready_url: str | None = None
    backoff: Backoff = field(default_factory=Backoff)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.backoff.started()
        self._process = spawn(self.command, cwd=self.cwd, log=self.log, env=self.env, inherit=self.inherit)

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def age(self) -> float:
        """Seconds since its last start."""
        return time.monotonic() - self.backoff.started_at

    @property
    def exit_code(self) -> int | None:
        """None while it runs, or before it was started."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGTERM)

    def finish(self, deadline: float, impatient: Callable[[], bool]) -> None:
        """Wait for its end until `deadline` (monotonic), then end it and everything it forked."""
        while self.running and time.monotonic() < deadline and not impatient():
            time.sleep(POLL_SECONDS)
        self.kill()

    def kill(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def granian(interface: str, port: int, target: str, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "devstack.granian",
        "--interface", interface, "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--http", "1", "--no-ws", "--no-access-log", "--log-level", "info",
        "--backlog", "4096", "--workers-kill-timeout", "15",
        *options, target,
    ]  # fmt: skip


def gateway_command(port: int, *, drain_seconds: int = 15, workers: int = 1) -> list[str]:
    options = ["--port", str(port), "--drain-seconds", str(drain_seconds)]
    shared = ["--workers", str(workers)] if workers > 1 else []
    return [sys.executable, "-m", "config.gateway", *options, *shared]


def console_command(port: int) -> list[str]:
    return granian("wsgi", port, "config.wsgi:application", "--blocking-threads", "4")


def upstream_command(port: int) -> list[str]:
    return [sys.executable, "-m", "devstack.sample_upstream", "--port", str(port)]


def celery_command(*arguments: str) -> list[str]:
    # Nobody waits for a job as somebody waits for the gateway, at the start too.
    return [
        "nice",
        "-n",
        "5",
        sys.executable,
        "-m",
        "celery",
        "-A",
        "config",
        *arguments,
        "--loglevel",
        "info",
    ]


def make_children(surroundings: Surroundings, inherit: Sequence[int]) -> dict[str, Child]:
    """All of them, by name, in the order in which they are started."""
    ports = surroundings.ports
    commands = {
        "sample-upstream": upstream_command(ports.upstream),
        "gateway": gateway_command(ports.gateway),
        "console": console_command(ports.console),
        "drain": manage("drain_usage"),
        "worker": celery_command("worker", "--pool", "threads", "--concurrency", "4", *ALONE),
        "beat": celery_command("beat"),
    }
    ready = {
        "sample-upstream": f"http://127.0.0.1:{ports.upstream}/health",
        "gateway": f"{surroundings.base_url}/health/ready",
        "console": f"{surroundings.console_url}/admin/login/",
    }
    return {
        name: make_child(surroundings, name, command, inherit, ready.get(name))
        for name, command in commands.items()
    }


def make_child(
    surroundings: Surroundings,
    name: str,
    command: Sequence[str],
    inherit: Sequence[int],
    ready_url: str | None = None,
) -> Child:
    return Child(
        name=name,
        command=command,
        env=surroundings.environment(name),
        log=surroundings.layout.log(name),
        cwd=surroundings.layout.root,
        inherit=inherit,
        ready_url=ready_url,
    )


def stop_together(children: Sequence[Child], impatient: Callable[[], bool]) -> None:
    """All at once; when `impatient` comes true, those that are left are killed."""
    for child in children:
        child.ask_to_stop()
    started = time.monotonic()
    for child in children:
        child.finish(started + child.stop_seconds, impatient)
