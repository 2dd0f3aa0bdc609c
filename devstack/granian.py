"""Granian's own command, with workers that end when their main process does.

Granian's worker is a fork of its main process and, where that one is killed, would keep the port open for
ever: the restarted gateway could not have it.
"""

import os
import signal

from granian.cli import entrypoint

from devstack.process import die_with_parent


def tie_workers_to_us() -> None:
    main_process = os.getpid()
    os.register_at_fork(after_in_child=lambda: die_with_parent(signal.SIGKILL, main_process))


if __name__ == "__main__":
    tie_workers_to_us()
    entrypoint()  # type: ignore[no-untyped-call]
