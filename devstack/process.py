"""Children that never outlive us.

The kernel sends a child its death signal when the *thread* that started it ends, so children are started from
a thread that lives as long as they should: in practice the main one.
"""

import ctypes
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1

# Looked up now: between fork and exec nothing may be imported or allocated that another thread could have
# locked.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True)
class Account:
    """An unprivileged user that a child runs as."""

    uid: int
    gid: int


def die_with_parent(death_signal: signal.Signals, parent: int) -> None:
    """In the child: ask for `death_signal` when the parent ends, and end now if it has ended already."""
    _prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def tied_to_us(death_signal: signal.Signals) -> Callable[[], None]:
    parent = os.getpid()
    return lambda: die_with_parent(death_signal, parent)


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def spawn(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    account: Account | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    inherit: Sequence[int] = (),
    with_input: bool = False,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own (Ctrl-C reaches us alone), its output going to `log`."""
    output = open_log(log)
    try:
        return subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=env,
            stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            pass_fds=[descriptor for descriptor in inherit if descriptor >= 0],
            # Runs after the change of user, which would clear it.
            preexec_fn=tied_to_us(death_signal),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    finally:
        os.close(output)


def last_line(log: Path) -> str:
    """The last thing that a child said, for an error of one line."""
    try:
        said = log.read_bytes()[-4000:].decode(errors="replace").strip()
    except OSError:
        said = ""
    return said.splitlines()[-1].strip() if said else "it said nothing"
