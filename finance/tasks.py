"""Jobs of finance. Each may run twice, or be killed anywhere."""

from celery import shared_task

from finance import archives, exports, reconciliation, reports
from finance.models import ExportJob


@shared_task
def run_export(job_id: str) -> None:
    """Work on one export, unless another worker does."""
    exports.run(job_id)


@shared_task
def resume_exports() -> None:
    """Put to work what was never begun or was killed, and take away what expired."""
    for job_id in ExportJob.objects.unfinished().values_list("id", flat=True):
        run_export.delay(str(job_id))
    exports.expire()


@shared_task
def reconcile_books(asked_by: str = "beat") -> None:
    """Compare ledger, rollups, counters and the last export."""
    reconciliation.reconcile(asked_by=asked_by)
    reconciliation.forget()


@shared_task
def send_reports() -> None:
    """Make and send what is due of the reports of every month."""
    reports.plan()
    reports.send()
    reports.tell_of_troubles()


@shared_task
def archive_usage() -> None:
    """Archive closed months that are old enough, where a setting says so."""
    archives.archive_due(by="beat")
