"""``manage.py rebuild_quotas``: every live counter from nothing, as the ledger and the open leases have it."""

import time
from typing import Any

from django.core.management.base import BaseCommand

from common import own_secrets
from metering import epochs
from metering.drain import Drain


class Command(BaseCommand):
    help = (
        "Sets every live counter from nothing. Calls go on; those of a shard are told to come again while it is set. "
        "Takes part as one more drain, so it needs none that runs."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        own_secrets.require()
        started = time.monotonic()
        epochs.distrust()
        # Broken off anywhere, whichever drain runs next goes on with it.
        Drain().run(until=epochs.all_live)
        self.stdout.write(f"all counters are set and live after {time.monotonic() - started:.1f} s")
