"""The SLA check as a job, every five minutes."""

from celery import shared_task

from sla import checks


@shared_task
def check_sla() -> None:
    """See ``sla.checks.check``."""
    checks.check()
