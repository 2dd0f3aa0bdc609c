"""Living under `make`.

`make` passes SIGTERM on to what it runs, but a SIGINT that reaches it alone (not the Ctrl-C of a terminal,
which reaches everybody) only makes it wait, without a word, for its recipe to end. And when it is killed,
nobody tells us.
"""

import os
import signal
from pathlib import Path

from devstack.process import die_with_parent

# Set by the recipe, and the sign that our parent is a `make`.
FOLLOW = "FOLLOW_PARENT"


def follow_parent() -> None:
    """Be asked to stop when the parent ends."""
    if os.environ.get(FOLLOW):
        die_with_parent(signal.SIGTERM, os.getppid())


def parent_was_interrupted() -> bool:
    """Whether our `make` sits in its handler of SIGINT, which blocks that signal."""
    if not os.environ.get(FOLLOW):
        return False
    try:
        status = Path(f"/proc/{os.getppid()}/status").read_text()
    except OSError:
        return False
    blocked = next((line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:")), "0")
    return bool(int(blocked, 16) >> (signal.SIGINT - 1) & 1)
