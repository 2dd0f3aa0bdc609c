"""One supervisor to a folder.

The lock is on an open file that every child inherits, so it is free only when nothing that was started is
left, not merely when the supervisor has gone.
"""

import fcntl
import os
import time
from pathlib import Path

from devstack.errors import DevstackError
from devstack.private import private_folder

LEFTOVERS_SECONDS = 10.0


class FolderLock:
    """Owns `folder` until it is released and every process that inherited `descriptor` has ended."""

    def __init__(self, folder: Path, *, name: str = "lock") -> None:
        self.path = folder / name
        self.descriptor = -1

    def acquire(self) -> None:
        self._open()
        try:
            self._wait_for_leftovers()
        except BaseException:
            self.release()
            raise
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, f"{os.getpid()}\n".encode(), 0)

    def try_acquire(self) -> bool:
        """Take it if it is free this moment."""
        self._open()
        if self._try():
            return True
        self.release()
        return False

    def _open(self) -> None:
        private_folder(self.path.parent)
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _wait_for_leftovers(self) -> None:
        """Children of a supervisor that was killed need a moment to end; a living supervisor is not waited
        for.
        """
        deadline = time.monotonic() + LEFTOVERS_SECONDS
        while not self._try():
            owner = self._owner()
            if is_alive(owner):
                raise DevstackError(f"{self.path.parent} is in use by process {owner}")
            if time.monotonic() > deadline:
                raise DevstackError(f"{self.path.parent} is in use by what process {owner} left running")
            time.sleep(0.05)

    def _try(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _owner(self) -> int:
        try:
            return int(os.pread(self.descriptor, 20, 0))
        except ValueError:
            return 0

    def release(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in {"Z", "X"}
