"""Drains that start in a hundredth of a second: forked off a process that has imported everything and done nothing.

Each line of the input starts one; the line says at which point it is to die (``common.crash``), if at all. The answer
is its number.
"""

import os
import signal
import sys
import traceback

import django

from common import crash
from devstack.process import die_with_parent


def main() -> None:
    django.setup()
    from django.core.management import call_command

    from metering import drain
    from metering.management.commands import drain_usage

    assert drain_usage
    # Time is short here: what waits for a second, or for longer and longer, waits for a tenth of that.
    drain.LOOK_EVERY, drain.FIRST_RETRY, drain.LAST_RETRY = 0.1, 0.02, 0.2
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    parent = os.getpid()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            die_with_parent(signal.SIGKILL, parent)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            crash.arm(line.strip())
            code = 1
            try:
                call_command("drain_usage")
                code = 0
            except BaseException:  # noqa: BLE001 - told, and nothing of the parent's may run here
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
