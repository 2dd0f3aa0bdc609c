"""The register of gateways: who may still hold usage that the ledger does not have.

A gateway writes its own row a few times a minute, beside its calls. One that was killed stays listed as silent until
its slot is taken over (``consumption.spool``), or a person says with a note that nothing more is expected of it.
"""

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

from django.db import transaction

from audit import trail
from common import clock
from metering.models import Gateway

REPORT_EVERY_SECONDS = 15.0
#: Not heard of for so long, a gateway is silent.
SILENT_AFTER = dt.timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Report:
    """What one gateway holds. ``spooled``: settled calls on its disk; ``oldest_open``: when its oldest call began that
    the ledger may not have, wherever it is held; None: there is none.

    ``mode``: who decides about limits there: ``normal``, Valkey; ``local``, the gateway alone; ``closed``, nobody.
    """

    id: str
    host: str
    started_at: dt.datetime
    open_calls: int
    spooled: int
    oldest_open: dt.datetime | None
    mode: str = "normal"


@transaction.atomic
def report(said: Report, *, took_over: Iterable[str] = ()) -> None:
    """Write what a gateway holds. ``took_over``: slots whose records are among it, and whose owners are dead."""
    fields = {
        "host": said.host[:255],
        "started_at": said.started_at,
        "seen_at": clock.now(),
        "open_calls": said.open_calls,
        "spooled": said.spooled,
        "oldest_open": said.oldest_open,
        "mode": said.mode,
        "ended_at": None,
        "dismissed_at": None,
        "dismissed_by": "",
        "note": "",
    }
    Gateway.objects.bulk_create(
        [Gateway(id=said.id, **fields)],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=list(fields),
    )
    # Not a slot's next owner, who came later.
    dead = Gateway.objects.filter(
        id__in=set(took_over) - {said.id}, ended_at=None, started_at__lt=said.started_at
    )
    dead.update(ended_at=clock.now(), open_calls=0, spooled=0, oldest_open=None)


def end(id_: str) -> None:
    """A gateway stopped and holds nothing."""
    now = clock.now()
    Gateway.objects.filter(id=id_).update(
        seen_at=now, ended_at=now, open_calls=0, spooled=0, oldest_open=None
    )


@transaction.atomic
def dismiss(id_: str, *, note: str, actor: str, address: str | None = None) -> bool:
    """Expect nothing more of a silent gateway; False where it is none. If it speaks after all, it is back."""
    silent = Gateway.objects.filter(
        id=id_, ended_at=None, dismissed_at=None, seen_at__lt=clock.now() - SILENT_AFTER
    )
    if not silent.update(dismissed_at=clock.now(), dismissed_by=actor, note=note):
        return False
    trail.record(
        actor=actor,
        action="gateway_dismissed",
        target_type="gateway",
        target_id=id_,
        after={"note": note},
        address=address,
    )
    return True


def expected() -> Iterable[Gateway]:
    """Gateways that may hold something: those that run, and those that fell silent."""
    return Gateway.objects.filter(ended_at=None, dismissed_at=None).order_by("host", "id")
