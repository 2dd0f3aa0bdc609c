"""Calls that this gateway serves by itself while Valkey is away, for services that say so.

Each is on the local disk, fsynced, before it goes upstream, and again as it is settled before it is answered. The spool
hands it in when Valkey is back, whether by this life of the gateway or by the next.
"""

import logging
import uuid
from typing import Literal

from common.errors import Unavailable
from consumption.spool import Record, Spool
from metering import journal
from quotas.admission import Ask, Lease
from quotas.errors import Away
from quotas.local_admission import LocalAdmission, Taken
from quotas.refusals import RETRY_SECONDS

log = logging.getLogger(__name__)

#: Calls that wait for Valkey are in memory too: about a kilobyte each.
MOST_RECORDS = 100_000

Mode = Literal["normal", "local", "closed"]
MODES: tuple[Mode, ...] = ("normal", "local", "closed")


class LocalMode:
    """``calls``: those that run, and what each has out of a share."""

    def __init__(self, admission: LocalAdmission, spool: Spool) -> None:
        self.calls: dict[uuid.UUID, Taken] = {}
        self._admission = admission
        self._spool = spool

    async def admit(self, ask: Ask) -> Lease:
        """Let a call in out of this gateway's share. Raises a refusal of ``quotas.errors``, or ``Unavailable``."""
        if len(self._spool) >= MOST_RECORDS:
            raise Away("Too many calls wait to be counted", retry_after=RETRY_SECONDS)
        lease, taken = self._admission.admit(ask)
        record = Record(ask.unsettled, local=True, open=True, share=taken.share_id)
        self.calls[ask.request_id] = taken
        try:
            await self._spool.hold(record)
        except OSError as error:
            await self.release(ask.request_id)
            raise _full(error) from error
        except BaseException:
            await self.release(ask.request_id)
            raise
        return lease

    async def settle(self, entry: journal.Entry, encoded: bytes) -> None:
        """Hold what a call used until Valkey has it. Raises ``Unavailable`` where it is in memory alone."""
        taken = self.calls.pop(entry.request_id)
        used = Taken(taken.share, min(taken.tokens, entry.total_tokens))
        taken.give_back(taken.tokens - used.tokens)
        record = Record(encoded, local=True, share=taken.share_id, on_lent=used.lent)
        try:
            await self._spool.hold(record)
        except OSError as error:
            raise _full(error) from error

    async def release(self, request_id: uuid.UUID) -> None:
        """End a call that never left for the upstream."""
        taken = self.calls.pop(request_id, None)
        if taken is not None:
            taken.give_back()
            await self._spool.drop(request_id)


def _full(error: OSError) -> Unavailable:
    log.critical("the spool takes no call: %s", error.strerror)
    return Unavailable(retry_after=RETRY_SECONDS)
