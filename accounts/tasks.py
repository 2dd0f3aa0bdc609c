"""Jobs of accounts. Each may run twice, or be killed anywhere."""

from celery import shared_task

from accounts import sign_ins


@shared_task
def forget_expired_sign_ins() -> None:
    """See ``accounts.sign_ins.forget_expired``."""
    sign_ins.forget_expired()
