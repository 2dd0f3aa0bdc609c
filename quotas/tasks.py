"""Jobs of quotas. Each may run twice, or be killed anywhere."""

from celery import shared_task

from quotas import reaper, sync


@shared_task
def reap_leases() -> None:
    """Close leases whose gateway is gone."""
    reaper.reap_expired()


@shared_task
def sync_quotas() -> None:
    """Compare live counters with the ledger, and heal them."""
    sync.sync_quotas()
