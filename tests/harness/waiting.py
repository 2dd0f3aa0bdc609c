"""Waiting for what takes an unknown, short time."""

import time
from collections.abc import Callable

#: What a look may take. Beyond it the machine kept us, or whoever was asked, from running, and that is nobody's delay.
LONGEST_LOOK = 0.1


def wait_for(condition: Callable[[], object], *, seconds: float = 20.0) -> None:
    """Returns when `condition` holds; fails the test when it does not within `seconds`.

    Who was kept from looking in time looks once more. For what is promised within a time: `wait_at_most`.
    """
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() > deadline
        if condition():
            return
        if is_last:
            raise AssertionError(f"did not come true within {seconds} s")
        time.sleep(0.02)


def wait_at_most(condition: Callable[[], object], *, seconds: float) -> None:
    """Returns when `condition` holds; fails the test when it does not within the `seconds` that were promised.

    Of each look and the pause after it a tenth of a second counts, so that there are ten looks to a second at least:
    a machine that stalls fails no promise that is kept.
    """
    spent = 0.0
    while spent <= seconds:
        began = time.monotonic()
        if condition():
            return
        time.sleep(0.02)
        spent += min(time.monotonic() - began, LONGEST_LOOK)
    raise AssertionError(f"did not come true within {seconds} s")
