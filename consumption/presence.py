"""What this gateway says of itself in the register of gateways."""

import socket
import uuid
from collections.abc import Callable
from functools import partial

from common import clock
from common.ids import moment_of
from consumption.local_mode import Mode
from consumption.settlement import Settlement
from consumption.spool import Spool
from metering import gateways


class Presence:
    """One gateway on the register. Its statements are made in the event loop, and written by a thread."""

    def __init__(self, settlement: Settlement, spool: Spool, mode: Callable[[], Mode]) -> None:
        self._settlement = settlement
        self._spool = spool
        self._mode = mode
        self._host = socket.gethostname()
        self._started_at = clock.now()

    def reporting(self) -> Callable[[], None]:
        """What this gateway holds now, to be written."""
        # Taken over with the slots: what their owners held is in this spool, and so in this report.
        return partial(gateways.report, self._report(), took_over=set(self._spool.predecessors))

    def leave(self) -> None:
        """Say that all is handed in; where it is not, the spool waits for its next owner and the register says so."""
        if self._oldest() is None:
            gateways.end(self._spool.name)
        else:
            gateways.report(self._report())

    def _oldest(self) -> uuid.UUID | None:
        held = self._settlement.oldest_open, self._spool.oldest, self._spool.retained.oldest
        return min((id_ for id_ in held if id_ is not None), default=None)

    def _report(self) -> gateways.Report:
        oldest = self._oldest()
        return gateways.Report(
            id=self._spool.name,
            host=self._host,
            started_at=self._started_at,
            open_calls=self._settlement.open_calls,
            spooled=len(self._spool) + self._spool.retained.files.records,
            oldest_open=None if oldest is None else moment_of(oldest),
            mode=self._mode(),
        )
