"""Analytics as a job, every five seconds."""

from celery import shared_task

from analytics import stream


@shared_task
def flush_events() -> None:
    """See ``analytics.stream.flush``."""
    stream.flush()
