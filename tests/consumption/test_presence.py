"""What a gateway says on the register: all that the ledger may not have counts, wherever it is held."""

import datetime as dt
import uuid
from pathlib import Path

import pytest

from common import clock
from common.ids import moment_of
from consumption.presence import Presence
from consumption.settlement import Settlement
from consumption.spool import Spool
from finance import periods
from metering.models import Gateway
from quotas.admission import Admission
from quotas.line import Line
from tests.consumption.test_retained import encoded
from tests.harness.admission import local_mode

pytestmark = pytest.mark.django_db
EPOCH = "3:" + "a" * 40


async def _nothing(_: Line) -> None: ...


def on_register(folder: Path) -> tuple[Spool, Presence]:
    spool = Spool(folder)
    spool.open()
    admission = Admission(
        Line("redis://127.0.0.1:1/0", on_connect=_nothing), gateway=f"{spool.name}:1", journal_bound=1
    )
    return spool, Presence(
        Settlement(admission, spool, local_mode(admission, spool)), spool, lambda: "normal"
    )


def test_what_is_retained_keeps_a_month_open_and_the_gateway_on_the_register(tmp_path: Path) -> None:
    spool, presence = on_register(tmp_path)
    this = clock.month_of(clock.now())
    last = clock.month_of(clock.month_start(this) - dt.timedelta(days=1))
    old = uuid.UUID(int=_first_id_of(last))
    spool.retained.add(5, EPOCH, "100-0", encoded())
    spool.retained.add(5, EPOCH, "100-1", encoded(old))

    presence.reporting()()
    row = Gateway.objects.get()
    assert (row.oldest_open, row.spooled) == (moment_of(old), 0)
    assert not periods._gateways_hold_nothing(periods.Month(last)).is_met
    presence.leave()
    assert Gateway.objects.get().ended_at is None

    spool.retained.passed(5, "3:100-1")
    presence.reporting()()
    assert Gateway.objects.get().oldest_open is None
    assert periods._gateways_hold_nothing(periods.Month(last)).is_met
    presence.leave()
    assert Gateway.objects.get().ended_at is not None
    spool.close()


async def test_what_is_on_disk_counts_as_spooled(tmp_path: Path) -> None:
    spool, presence = on_register(tmp_path)
    ids = [encoded() for _ in range(3)]
    for number, entry in enumerate(ids):
        spool.retained.add(5, EPOCH, f"100-{number}", entry)
    await spool.retained.write_all()
    assert (presence._report().spooled, presence._report().oldest_open is None) == (3, False)
    spool.close()


def _first_id_of(month: dt.date) -> int:
    """The smallest UUIDv7 of a month."""
    milliseconds = int(clock.month_start(month).timestamp() * 1000)
    return milliseconds << 80 | 0x7 << 76 | 0x2 << 62
