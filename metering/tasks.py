"""Jobs of metering. Each may run twice, or be killed anywhere."""

from celery import shared_task

from metering import partitions


@shared_task
def make_partitions() -> None:
    """The ledger's partitions for the months ahead."""
    partitions.make_ahead()
