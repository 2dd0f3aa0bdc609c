"""A disk that is full whenever a test says so, and has room again the moment it says so."""

import ctypes
import os
from pathlib import Path
from typing import Self

CLONE_NEWNS = 0x20000
MS_REMOUNT, MS_REC, MS_PRIVATE = 1 << 5, 1 << 14, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """A file system in memory. Nobody but this thread and what it starts sees it, and it goes when they have ended.

    Whoever writes to it when it is full is told so by the kernel (ENOSPC), as on a disk that is.
    """

    def __init__(self, folder: Path, *, most: int = 4 << 30) -> None:
        self.folder = folder
        self._most = most

    @classmethod
    def mounted(cls, folder: Path) -> Self | None:
        """None where that is not allowed: it needs root."""
        if os.geteuid() != 0 or _libc.unshare(CLONE_NEWNS) != 0:
            return None
        disk = cls(folder)
        try:
            _mount(b"none", Path("/"), None, MS_REC | MS_PRIVATE, b"")
            folder.mkdir(parents=True, exist_ok=True)
            _mount(b"tmpfs", folder, b"tmpfs", 0, disk._size(disk._most))
        except OSError:
            return None
        return disk

    def fill(self) -> None:
        """Nothing more fits. What is removed from now on makes room: fill it again."""
        for _ in range(100):
            found = os.statvfs(self.folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            try:
                self._resize(used)
            except OSError:  # it grew meanwhile
                continue
            return
        raise OSError("the disk grows faster than it can be made small")

    def free(self) -> None:
        self._resize(self._most)

    def unmount(self) -> None:
        _libc.umount2(os.fsencode(self.folder), 2)  # once nobody uses it any more

    def _resize(self, size: int) -> None:
        _mount(b"tmpfs", self.folder, b"tmpfs", MS_REMOUNT, self._size(size))

    @staticmethod
    def _size(size: int) -> bytes:
        return b"size=%d,mode=755" % size


def _mount(source: bytes, target: Path, kind: bytes | None, flags: int, options: bytes) -> None:
    if _libc.mount(source, os.fsencode(target), kind, ctypes.c_ulong(flags), options or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
