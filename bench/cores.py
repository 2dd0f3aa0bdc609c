"""One core for what is measured, the other for everything else."""

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError

GATEWAY_CORE, OTHER_CORE = 0, 1
BOTH = frozenset({GATEWAY_CORE, OTHER_CORE})
PREFERRED = -10


def prepare_machine() -> None:
    """Put ourselves, and so whatever we start, on the second core, with as many open files as are allowed."""
    if not os.sched_getaffinity(0) >= BOTH:
        raise BenchError(
            "two cores are needed, numbers 0 and 1: one for the gateway, one for everything else"
        )
    os.sched_setaffinity(0, {OTHER_CORE})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def on_cores(*cores: int) -> Iterator[None]:
    """What is started in here runs there, and so does whatever it starts itself."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def move(pids: list[int], *cores: int) -> None:
    """Move running processes with all their threads."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), set(cores))


def prefer(pid: int) -> None:
    """Let a process run before the others of its core, as if it had one of its own; where the system allows it."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, PREFERRED)


def open_files() -> int:
    """How many files a process of ours may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
