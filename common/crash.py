"""Named points at which a test kills the process, to show that dying there loses nothing."""

import os
import signal

_name, _left = "", 0


def arm(where: str) -> None:
    """Have ``point`` die at this point; at the n-th time that it is passed, where ``where`` is ``name:n``."""
    global _name, _left
    _name, _, times = where.partition(":")
    _left = int(times or 1)


def point(name: str) -> None:
    """Die here by SIGKILL where ``CRASH_AT`` or ``arm`` names this point. Nothing otherwise."""
    global _left
    if name == _name:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get("CRASH_AT", ""))
