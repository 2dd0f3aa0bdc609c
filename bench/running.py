"""Everything that was started is stopped, in the reverse order, whatever happens."""

import contextlib
import signal
from types import FrameType, TracebackType
from typing import Protocol, Self, TypeVar


class Stoppable(Protocol):
    def stop(self) -> None: ...


AnyStoppable = TypeVar("AnyStoppable", bound=Stoppable)


class Running:
    """What this run has started so far."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def add(self, started: AnyStoppable) -> AnyStoppable:
        """To be stopped at the end. Add it before it is started: a start that fails half-way is stopped too."""
        self._stack.callback(started.stop)
        return started

    def __enter__(self) -> Self:
        # As Ctrl-C: an exception, so that what runs is stopped on the way out.
        signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._stack.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
