"""Links to finished files: signed for one person and one job, good for minutes, and every use is in the trail."""

import uuid
from dataclasses import dataclass
from pathlib import Path

from django.core import signing

from accounts.models import User
from audit import trail
from finance import exports, manifests
from finance.errors import DownloadRefused
from finance.models import ExportJob

#: Seconds a link lives.
LINK_SECONDS = 300
_signer = signing.TimestampSigner(salt="finance.downloads")


@dataclass(frozen=True, slots=True)
class Download:
    """A file on disk and the name it is given away under."""

    path: Path
    name: str


def sign(job: ExportJob, *, user: User) -> str:
    """The token of a link for this person alone."""
    return _signer.sign(f"{job.id}:{user.pk}")


def redeem(token: str, *, user: User, part: str = "file", address: str | None = None) -> Download:
    """The file (or with ``part="manifest"`` its manifest) that a link is good for. Raises ``DownloadRefused``."""
    job = _job(token, user)
    file = exports.file_of(job)
    if file is None or part not in ("file", "manifest"):
        raise DownloadRefused
    path = file if part == "file" else job.folder / manifests.NAME
    trail.record(
        actor=user.get_username(),
        action="export.downloaded",
        target_type="export_jobs",
        target_id=job.id,
        after={"part": part},
        address=address,
    )
    what = "statements" if job.format == ExportJob.Format.STATEMENTS else "usage"
    name = f"{what}_{job.start:%Y-%m-%d}_{job.end:%Y-%m-%d}_{str(job.id)[:8]}"
    return Download(path, name + _ending(part, file))


def _ending(part: str, file: Path) -> str:
    return file.suffix if part == "file" else ".manifest.json"


def _job(token: str, user: User) -> ExportJob:
    try:
        job_id, _, person = _signer.unsign(token, max_age=LINK_SECONDS).partition(":")
    except signing.BadSignature as error:
        raise DownloadRefused from error
    job = ExportJob.objects.filter(id=uuid.UUID(job_id)).first()
    if job is None or person != str(user.pk) or not user.has_perm("finance.export_usage"):
        raise DownloadRefused
    return job
