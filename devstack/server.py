"""What PostgreSQL and Valkey have in common: a folder, a port, a process that can be stopped, killed and
restarted.
"""

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from devstack.errors import DevstackError
from devstack.ports import remembered_port
from devstack.private import private_folder
from devstack.process import last_line

START_SECONDS = 30.0
POLL_SECONDS = 0.02
# Said when another process was quicker to take the port, or while what a killed server left is still ending.
WORTH_ANOTHER_TRY = ("in use", "already exists")


class Server(ABC):
    """A server with its data under `folder`; the same data, secrets and (unless it got busy) port on every
    start.

    `inherit` are descriptors, such as a lock's, that the server holds open for as long as it runs.
    """

    name: str
    stop_signal = signal.SIGTERM
    stop_seconds = 20.0

    def __init__(self, folder: Path, *, log: Path | None = None, inherit: Sequence[int] = ()) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.log = log or folder / "log"
        self.inherit = tuple(inherit)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """How a client reaches it, password included."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what a first start needs. Called before every start."""

    @abstractmethod
    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process on `self.port`."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves clients."""

    def finish(self) -> None:  # noqa: B027 - most servers have nothing to add
        """Called after a start, when it answers."""

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DevstackError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        if self.running:
            return
        private_folder(self.folder)
        self.prepare()
        deadline = time.monotonic() + START_SECONDS
        while not self._started(deadline):
            time.sleep(0.1)
        self.finish()

    def _started(self, deadline: float) -> bool:
        """One try. False: it ended for a reason that may pass."""
        self.port = remembered_port(self.folder / "port")
        self._process = self.launch()
        while self.running and time.monotonic() < deadline:
            if self.answers():
                return True
            time.sleep(POLL_SECONDS)
        if self.running:
            self.kill()
            raise DevstackError(f"{self.name} did not answer within {START_SECONDS:.0f} s: see {self.log}")
        said = self.log.read_text(errors="replace")[-2000:]
        if time.monotonic() < deadline and any(words in said for words in WORTH_ANOTHER_TRY):
            return False
        raise DevstackError(f"{self.name} did not start: {last_line(self.log)} (see {self.log})")

    def stop(self) -> None:
        """In order: what was written is on disk afterwards."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(self.stop_signal)
        try:
            self._process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """`kill -9`: nothing is flushed, nobody is told."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """It keeps its connections and answers nobody, as in a long stall."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self.pid, number)

    def erase(self) -> None:
        """Lose the data, keep port and password. Only for a stopped server."""
        if self.running:
            raise DevstackError(f"{self.name} is running")
        shutil.rmtree(self.data, ignore_errors=True)
