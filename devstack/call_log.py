"""A log that holds a line on disk before anybody is told of it, yet is not slow: commits are shared."""

import asyncio
import os
from pathlib import Path


class CallLog:
    """Lines that arrive while the disk is busy with the last ones are written and synced together."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lines: list[bytes] = []
        self._done: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def append(self, line: bytes) -> None:
        """Returns when `line` is on disk. Raises OSError where it could not be put there."""
        if self._done is None:
            self._done = asyncio.get_running_loop().create_future()
        self._lines.append(line)
        done = self._done
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_out())
        # Shielded: whoever goes away early must not take the others' commit along.
        await asyncio.shield(done)

    async def _write_out(self) -> None:
        while self._done is not None:
            lines, done = self._lines, self._done
            self._lines, self._done = [], None
            try:
                await asyncio.get_running_loop().run_in_executor(
                    None, self._commit, b"\n".join([*lines, b""])
                )
            except OSError as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _commit(self, block: bytes) -> None:
        while block:
            block = block[os.write(self._descriptor, block) :]
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)
