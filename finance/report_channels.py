"""How a report leaves the house: by e-mail, or as objects in an S3-compatible bucket."""

import io
import json
import smtplib
import socket
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMessage

from catalog.credentials import open_for
from common import clock
from common.fetching import NotFetched, put
from common.sealing import Unsealable
from finance import exports, manifests
from finance.models import ReportDelivery, ReportSchedule

#: Larger files are told of by letter, and fetched from the console: few mail servers take more.
MOST_ATTACHED = 10 * 1024 * 1024
#: Seconds that an upload may take: a minute, and a megabyte a second.
_LEAST_SECONDS, _BYTES_A_SECOND = 60, 1024 * 1024
#: What a mail server says, or what happens, before it has taken a letter.
_NOT_TAKEN = (
    smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused, smtplib.SMTPNotSupportedError, ConnectionRefusedError,
    socket.gaierror,
)  # fmt: skip


class Refused(Exception):
    """It was certainly not sent; why, in words that show no secret."""


class Unclear(Exception):
    """It may have been sent."""


def send(delivery: ReportDelivery) -> None:
    """Send the file of a job that is done. Raises ``Refused`` or ``Unclear``."""
    file = exports.file_of(delivery.job) if delivery.job else None
    if file is None:
        raise Refused("its file is gone")
    if delivery.schedule.channel == ReportSchedule.Channel.EMAIL:
        _mail(delivery, file)
    else:
        _upload(delivery, file)


def name_of(delivery: ReportDelivery, file: Path) -> str:
    """The same every time, and nobody else's."""
    return f"{delivery.schedule.format}_{delivery.month:%Y-%m}_{delivery.schedule_id}{file.suffix}"


def _mail(delivery: ReportDelivery, file: Path) -> None:
    schedule, job = delivery.schedule, delivery.job
    assert job is not None  # noqa: S101 - the caller looked
    is_attached = file.stat().st_size <= MOST_ATTACHED
    where = (
        "Attached."
        if is_attached
        else f"It is too large for a letter: export {job.id} in the console has it."
    )
    totals = "".join(f"{amount} {currency}\n" for currency, amount in (job.manifest or {})["totals"].items())
    letter = EmailMessage(
        f"{' '.join(schedule.name.split())}: {delivery.month:%Y-%m}",
        f"{schedule.get_format_display()} of {delivery.month:%Y-%m} (UTC). {where}\n\n"
        f"Recorded in the ledger:\n{totals or 'nothing'}\nSHA-256 {(job.manifest or {})['sha256']}\n",
        to=schedule.addresses,
        # One letter, whoever sends it again: mail systems drop the second.
        headers={"Message-ID": f"<report-{delivery.pk}-{job.id}@{settings.DEFAULT_FROM_EMAIL.rpartition('@')[2]}>"},
    )  # fmt: skip
    if is_attached:
        letter.attach(name_of(delivery, file), file.read_bytes(), "application/octet-stream")
    try:
        letter.send()
    except _NOT_TAKEN as error:
        raise Refused(f"the mail server did not take it ({type(error).__name__})") from error
    except (OSError, smtplib.SMTPException) as error:
        raise Unclear(f"the mail server went silent ({type(error).__name__})") from error


def _upload(delivery: ReportDelivery, file: Path) -> None:
    """The file, and then its manifest: where that lies, the file is whole."""
    manifest = json.dumps((delivery.job and delivery.job.manifest) or {}, indent=2).encode()
    name = name_of(delivery, file)
    with file.open("rb") as content:
        _put(delivery.schedule, name, content, size=file.stat().st_size, sha256=manifests.sha256(file))
    _put(
        delivery.schedule, f"{name}.{manifests.NAME}", io.BytesIO(manifest), size=len(manifest),
        sha256=manifests.digest(manifest),
    )  # fmt: skip


def _put(schedule: ReportSchedule, name: str, content: BinaryIO, *, size: int, sha256: str) -> None:
    """``PUT`` one object, signed (AWS Signature Version 4). The server holds the content against its hash."""
    # Half a second of imports that few processes need.
    from minio.credentials.credentials import Credentials
    from minio.signer import sign_v4_s3

    path = "/".join(part for part in (schedule.bucket, schedule.folder, name) if part)
    url = urlsplit(f"{schedule.endpoint.rstrip('/')}/{path}")
    now = clock.now()
    headers = {
        "Host": url.netloc,
        "Content-Length": str(size),
        "Content-Type": "application/octet-stream",
        "x-amz-content-sha256": sha256,
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
    }
    try:
        secret = open_for(schedule.endpoint, bytes(schedule.credential or b""))
    except Unsealable as error:
        raise Refused("its secret key cannot be opened: enter it again") from error
    signed = sign_v4_s3(
        method="PUT", url=url, region=schedule.region, headers={**headers},
        credentials=Credentials(schedule.access_key, secret), content_sha256=sha256, date=now,
    )  # fmt: skip
    given = {name: str(value) for name, value in signed.items()}
    try:
        put(url.geturl(), content, headers=given, seconds=_LEAST_SECONDS + size / _BYTES_A_SECOND)
    except NotFetched as error:
        raise Refused(str(error)) from error
