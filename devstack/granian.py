"""Granian's own command, with workers that end when they should.

Granian's worker is a fork of its main process. Where that one is killed, the worker would keep the port open
for ever, and the restarted gateway could not have it. And until it has loaded the application it has the main
process's handler of SIGTERM, which does nothing there: a stop in that time would go unheard.
"""

import os
import signal

from granian.cli import entrypoint

from devstack.process import die_with_parent


def prepare_worker(main_process: int) -> None:
    die_with_parent(signal.SIGKILL, main_process)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def prepare_workers() -> None:
    main_process = os.getpid()
    os.register_at_fork(after_in_child=lambda: prepare_worker(main_process))


if __name__ == "__main__":
    prepare_workers()
    entrypoint()  # type: ignore[no-untyped-call]
