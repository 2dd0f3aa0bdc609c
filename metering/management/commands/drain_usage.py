"""``manage.py drain_usage``: settled usage from the journal into the ledger."""

import gc
import logging
from typing import Any

from django.core.management.base import BaseCommand

from common import own_secrets
from metering.drain import Drain

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = "Moves settled usage from Valkey's journals into the ledger, until SIGTERM. Any number may run at once."

    def handle(self, *args: Any, **options: Any) -> None:
        own_secrets.require()
        drain = Drain()
        drain.stop_on_signals()
        # What is loaded now stays; entries come and go by the thousand and form no cycles. A fifth of the time.
        gc.freeze()
        gc.set_threshold(50_000)
        log.info("draining")
        drain.run()
        log.info("stopped")
