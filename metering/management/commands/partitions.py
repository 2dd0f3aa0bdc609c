"""``manage.py partitions``: the ledger's partitions for the months ahead."""

from typing import Any

from django.core.management.base import BaseCommand

from metering.partitions import make_ahead


class Command(BaseCommand):
    help = "Makes the ledger's partitions for this month and the next three, where they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        made = make_ahead()
        self.stdout.write("made " + ", ".join(made) if made else "nothing to make")
