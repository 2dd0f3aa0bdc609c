"""Sums of the ledger without a ledger, for tests of what reads them."""

import datetime as dt
from typing import Any

from metering.models import DailyUsageRollup, UsageRollup
from metering.rollups import SUMS


def make_rollup(hour: dt.datetime, **fields: Any) -> UsageRollup:
    """An hour's row, which its day's has too."""
    made = UsageRollup.objects.create(hour=hour, **fields)
    owners = {name: value for name, value in fields.items() if name not in SUMS}
    sums = {name: value for name, value in fields.items() if name in SUMS}
    day, created = DailyUsageRollup.objects.get_or_create(sums, day=hour.date(), **owners)
    if not created:
        for name, value in sums.items():
            setattr(day, name, getattr(day, name) + value)
        day.save()
    return made
