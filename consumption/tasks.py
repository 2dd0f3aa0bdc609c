"""Jobs of consumption. Each may run twice, or be killed anywhere."""

from celery import shared_task

from consumption import claims


@shared_task
def remove_expired_claims() -> None:
    """Idempotency-Keys that stand for nothing any more."""
    claims.remove_expired()
