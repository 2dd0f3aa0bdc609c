"""A process that is measured: what it and everything it forked cost in CPU time and memory."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.cores import OTHER_CORE, on_cores
from bench.errors import BenchError
from devstack.process import last_line, spawn
from devstack.readiness import answers_ok

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Fields of /proc/<pid>/stat, counted from the one after the name (see proc(5)).
SESSION, UTIME, CSTIME, RSS = 3, 11, 14, 21
POLL_SECONDS = 0.05


class Process:
    """One session: the process we started, and what it forked. It dies with us."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        cwd: Path,
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.log = name, log
        self._command, self._cwd, self._env = command, cwd, env
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *cores: int) -> None:
        """On the given cores; without any on the one that is not the gateway's."""
        self.log.unlink(missing_ok=True)
        with on_cores(*(cores or (OTHER_CORE,))):
            self._process = spawn(self._command, cwd=self._cwd, log=self.log, env=self._env)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BenchError(f"{self.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_for(self, url: str, *, seconds: float = 60.0) -> None:
        """Until `url` answers 200. Raises BenchError where that takes longer or the process ends."""
        deadline = time.monotonic() + seconds
        while not answers_ok(url):
            if not self.running or time.monotonic() > deadline:
                raise BenchError(f"{self.name} does not start: {last_line(self.log)} (see {self.log})")
            time.sleep(POLL_SECONDS)

    def said(self, word: str, *, seconds: float = 60.0) -> str:
        """The rest of the first line of its log that begins with `word`."""
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            for line in self.log.read_text(errors="replace").splitlines():
                if line.startswith(word):
                    return line.removeprefix(word).strip()
            time.sleep(POLL_SECONDS)
        raise BenchError(f"{self.name} does not start: {last_line(self.log)} (see {self.log})")

    def wait(self, *, seconds: float) -> None:
        """Until it has ended, with exit code 0 or by the SIGTERM it was sent. Raises BenchError otherwise."""
        try:
            code = self._process.wait(seconds) if self._process else 0
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} has not ended after {seconds:.0f} s: see {self.log}") from None
        if code not in (0, -signal.SIGTERM):
            raise BenchError(f"{self.name} failed: {last_line(self.log)} (see {self.log})")

    def stop(self, *, seconds: float = 45.0) -> None:
        """SIGTERM, and SIGKILL for all of the session that is left after a while."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        if self.running:
            self.ask_to_stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        self.signal(signal.SIGKILL)
        self._process.wait()

    def ask_to_stop(self) -> None:
        if self.running:
            os.kill(self.pid, signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """To all of the session's first process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def pids(self) -> list[int]:
        return [pid for pid, _ in self._members()]

    def cpu_seconds(self) -> float:
        """User and system time of all processes and threads, and of those that ended and were waited for."""
        ticks = sum(int(field) for _, stat in self._members() for field in stat[UTIME : CSTIME + 1])
        return ticks / TICK

    def rss(self) -> int:
        """Resident bytes of all processes; what they share is counted for each of them."""
        return sum(int(stat[RSS]) for _, stat in self._members()) * PAGE

    def _members(self) -> list[tuple[int, list[str]]]:
        """Number and status of every process of the session."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(stat[SESSION]) == self.pid:
                    found.append((int(folder.name), stat))
        return found
