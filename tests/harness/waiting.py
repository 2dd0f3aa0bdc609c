"""Waiting for what takes an unknown, short time."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Returns when `condition` holds; fails the test when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"did not come true within {seconds} s")
        time.sleep(0.02)
