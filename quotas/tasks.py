"""Jobs of quotas. Each may run twice, or be killed anywhere."""

from celery import shared_task

from quotas import notices, reaper, sync


@shared_task
def reap_leases() -> None:
    """Close leases whose gateway is gone."""
    reaper.reap_expired()


@shared_task
def sync_quotas() -> None:
    """Compare live counters with the ledger, and heal them."""
    sync.sync_quotas()


@shared_task
def send_budget_notices() -> None:
    """Letters to owners and billing members of budgets of which 80 or 100 % are spent."""
    notices.write()
    notices.send()
