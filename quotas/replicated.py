"""A line to a master of a cluster, whose answers count once its replicas have what they tell.

A master that is killed takes with it what it had answered and not yet passed on. So one ``WAIT`` goes behind the
commands of every tick, and their answers are held until it says that enough replicas have followed: what a caller was
told survives the loss of the master, and a master that was cut off from its replicas tells nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hiredis

from metering.topology import Address
from quotas.line import Argument, Line, NotSent, OutcomeUnknown, Waiting

#: Refusals by which a server says that another one has the slot, or that it cannot say who.
ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "MASTERDOWN")


class _Wait(Waiting):
    """The place of a ``WAIT`` among the calls. Nobody waits for its future."""


class ReplicatedLine(Line):
    """``on_refusal`` is called where the server says that another one has the slot."""

    def __init__(
        self,
        url: str,
        *,
        on_connect: Callable[[Line], Awaitable[None]],
        on_refusal: Callable[[], None],
        timeout: float,
        address: Address | None = None,
    ) -> None:
        super().__init__(url, on_connect=on_connect, timeout=timeout, address=address)
        self._on_refusal = on_refusal
        self._held: list[tuple[Waiting, Any]] = []
        self._has_calls = False
        #: How many replicas have to follow. ``on_connect`` reads it from the server's settings.
        self.replicas = 1

    def call(
        self,
        command: bytes | Sequence[Argument],
        *,
        timeout: float | None = None,
        on_late: Callable[[Any], None] | None = None,
    ) -> asyncio.Future[Any]:
        """See ``Line.call``. Where too few replicas follow, the outcome is unknown."""
        future = super().call(command, timeout=timeout, on_late=on_late)
        self._waiting[-1].counts = self._has_calls = True
        return future

    def ask(self, command: Sequence[Argument], *, timeout: float) -> asyncio.Future[Any]:
        """``call`` for a key that is being handed over to this server."""
        if not self._open:
            raise NotSent("no connection to Valkey")
        # In one write, one behind the other: it holds for the next command alone.
        self._send(("ASKING",), timeout, None).add_done_callback(_look_at)
        return self.call(command, timeout=timeout)

    def _flush(self) -> None:
        if self._has_calls:
            self._has_calls = False
            future = self._loop.create_future()
            future.set_result(None)
            self._waiting.append(_Wait(future, self._loop.time() + self._timeout))
            wait = ("WAIT", self.replicas, int(self._timeout * 1000))
            self._out.append(hiredis.pack_command(wait))  # type: ignore[arg-type]  # its stub takes one item
        super()._flush()

    def _deliver(self, waiting: Waiting, answer: Any) -> None:
        if isinstance(waiting, _Wait):
            self._let_go(isinstance(answer, int) and answer >= self.replicas)
        elif isinstance(answer, hiredis.ReplyError):
            if str(answer).startswith(ELSEWHERE):
                self._on_refusal()
            super()._deliver(waiting, answer)
        elif waiting.counts:
            self._held.append((waiting, answer))
        else:
            super()._deliver(waiting, answer)

    def _let_go(self, has_followers: bool) -> None:
        held, self._held = self._held, []
        for waiting, answer in held:
            if not has_followers and not waiting.future.done():
                waiting.future.set_exception(OutcomeUnknown("too few replicas followed in time"))
            super()._deliver(waiting, answer)

    def _late(self, now: float) -> list[Waiting]:
        held = [each for each, _ in self._held if each.deadline <= now and not each.future.done()]
        return held + super()._late(now)

    def _break(self) -> None:
        self._waiting.extendleft(waiting for waiting, _ in reversed(self._held))
        self._held = []
        self._has_calls = False
        super()._break()


def _look_at(future: asyncio.Future[Any]) -> None:
    """Whatever came of it: the call behind it tells."""
    if not future.cancelled():
        future.exception()
