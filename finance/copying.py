"""Rows of the ledger, copied to one file: large ranges by several sessions that see one moment, a stretch of time each.

Most of the time goes into what the server makes of a row, on one core for each session. So there are as many sessions
as a small machine has cores, they take stretches in turn, and what they wrote is put together in the order of time,
which is the order of ids.
"""

import datetime as dt
import os
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

from finance.formats import Progress
from finance.models import ExportJob
from finance.snapshot import Lines, Snapshot, following

SESSIONS, STRETCHES = 2, 8
#: Fewer rows are copied by one session: a second one would take longer to begin than it saves.
WORTHWHILE = 100_000
#: Progress is looked at so often, seconds.
_LOOK_EVERY = 0.2


class _Stopped(Exception):
    """Another session failed, or the job is not wanted any more."""


def copy_whole(ledger: Snapshot, select: str, target: Path, told: Progress) -> None:
    """An answer, whatever it is, as CSV with its head."""
    with target.open("wb") as file:
        lines = Lines(file, told)
        ledger.copy(select, lines)
        lines.flush()


def copy_rows(ledger: Snapshot, job: ExportJob, select: str, target: Path, told: Progress) -> None:
    """An answer with a line for each row of the ledger, in the order of ids, as CSV with its head."""
    _Copy(job, select, ledger.shared(), target, told).run()


class _Copy:
    def __init__(self, job: ExportJob, select: str, moment: str, target: Path, told: Progress) -> None:
        self._job, self._select, self._moment, self._told = job, select, moment, told
        self._stretches = list(_stretches(job.start, job.end))
        self._parts = [target, *(target.with_suffix(f".{n}") for n in range(1, len(self._stretches)))]
        self._rows = [0] * len(self._stretches)
        self._is_stopped = threading.Event()
        self._waiting: SimpleQueue[int] = SimpleQueue()
        for number in range(len(self._stretches)):
            self._waiting.put(number)

    def run(self) -> None:
        with ThreadPoolExecutor(SESSIONS) as pool:
            sessions = {pool.submit(self._work) for _ in range(SESSIONS)}
            try:
                while sessions:
                    done, sessions = wait(sessions, timeout=_LOOK_EVERY, return_when=FIRST_EXCEPTION)
                    for session in done:
                        session.result()
                    self._told(sum(self._rows))
            finally:
                self._is_stopped.set()
        _put_together(self._parts)

    def _work(self) -> None:
        with following(self._moment) as other:
            while True:
                try:
                    number = self._waiting.get_nowait()
                except Empty:
                    return
                ledger = Snapshot(other, self._job, self._stretches[number])
                with self._parts[number].open("wb") as file:
                    lines = Lines(file, partial(self._note, number), has_head=number == 0)
                    ledger.copy(self._select, lines, has_head=number == 0)
                    lines.flush()

    def _note(self, number: int, rows: int) -> None:
        self._rows[number] = rows
        if self._is_stopped.is_set():
            raise _Stopped


def _stretches(start: dt.datetime, end: dt.datetime) -> Iterator[tuple[dt.datetime, dt.datetime]]:
    """Equal parts of ``[start, end)``."""
    cuts = [start + (end - start) * n / STRETCHES for n in range(STRETCHES)]
    return zip(cuts, [*cuts[1:], end], strict=True)


def _put_together(parts: list[Path]) -> None:
    """Add files to the end of the first, and remove them."""
    with parts[0].open("r+b") as whole:
        whole.seek(0, os.SEEK_END)
        for part in parts[1:]:
            with part.open("rb") as file:
                while os.sendfile(whole.fileno(), file.fileno(), None, 1 << 30):
                    pass
            part.unlink()
