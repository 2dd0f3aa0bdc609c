"""Jobs of keys. Each may run twice, or be killed anywhere."""

from celery import shared_task

from keys import notices


@shared_task
def send_notices() -> None:
    """Letters to owners: of keys that expire soon, and of keys that leaked."""
    notices.write_warnings()
    notices.send()
