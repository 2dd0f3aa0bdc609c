"""What finance keeps: export jobs, and what reconciliation found."""

import datetime as dt
import uuid
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator, validate_email
from django.db import models

from accounts.models import Consumer
from catalog.credentials import ForAnotherOrigin, open_for, seal_for, validate_credential
from catalog.endpoints import validate_endpoint
from catalog.models import Service
from common import clock
from common.sealing import Unsealable

#: How long a finished file stays.
KEPT = dt.timedelta(days=7)
#: A job that was begun so often and never ended is at fault itself.
MOST_ATTEMPTS = 5


def this_month() -> dt.date:
    return clock.month_of(clock.now())


class ExportJobQuerySet(models.QuerySet["ExportJob"]):
    def unfinished(self) -> "ExportJobQuerySet":
        """Jobs that somebody has to work on, or was killed over."""
        return self.filter(state__in=(ExportJob.State.QUEUED, ExportJob.State.RUNNING))

    def stale(self) -> "ExportJobQuerySet":
        """Finished jobs whose files have had their time."""
        return self.filter(state=ExportJob.State.DONE, expires_at__lte=clock.now())


class ExportJob(models.Model):
    """One file of usage, from order to expiry. Moves from state to state by compare-and-set alone.

    The range is ``[start, end)``, in UTC. ``manifest``: see ``finance.manifests``.
    """

    class Format(models.TextChoices):
        CSV = "csv", "CSV"
        XLSX = "xlsx", "Excel (XLSX)"
        PARQUET = "parquet", "Parquet"
        FOCUS_1_4 = "focus-1.4", "FOCUS 1.4 (CSV)"
        FOCUS_1_2 = "focus-1.2", "FOCUS 1.2 (CSV)"
        STATEMENTS = "statements", "Statements (ZIP of PDFs)"

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"
        EXPIRED = "expired"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    format = models.CharField(max_length=20, choices=Format)
    start = models.DateTimeField()
    end = models.DateTimeField()
    consumer = models.ForeignKey(
        Consumer, on_delete=models.PROTECT, null=True, blank=True, related_name="+", help_text="Blank: all."
    )
    state = models.CharField(max_length=20, choices=State, default=State.QUEUED)
    rows_total = models.BigIntegerField(null=True, blank=True)
    rows_done = models.BigIntegerField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.CharField(max_length=255, blank=True)
    manifest = models.JSONField(null=True, blank=True)
    ordered_by = models.CharField(max_length=150)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    objects = ExportJobQuerySet.as_manager()

    class Meta:
        db_table = "export_jobs"
        ordering = ("-created_at",)
        default_permissions = ("view",)
        permissions = (("export_usage", "Can order, cancel and download exports"),)
        constraints = (
            models.CheckConstraint(condition=models.Q(start__lt=models.F("end")), name="export_range"),
        )

    def __str__(self) -> str:
        return f"{self.get_format_display()} {self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}"

    @property
    def folder(self) -> Path:
        """Where its files are, if it has any."""
        return Path(settings.EXPORT_DIR) / str(self.id)

    @property
    def percent(self) -> int:
        if self.state == self.State.DONE:
            return 100
        return min(99, self.rows_done * 100 // self.rows_total) if self.rows_total else 0

    def moves(self, state: str, *, of: tuple[str, ...], **fields: Any) -> bool:
        """Change the state, if it is still one of those; False where somebody else was quicker."""
        changed = ExportJob.objects.filter(id=self.id, state__in=of).update(state=state, **fields)
        if changed:
            self.state = state
        return bool(changed)


class Reconciliation(models.Model):
    """One comparison of the books, all read at one position of the journals. Written once, when it ended."""

    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(default=clock.now)
    months = ArrayField(models.DateField())
    pairs = models.BigIntegerField(help_text="Services and consumers compared, by month and currency.")
    found = models.BigIntegerField(help_text="Differences.")
    counters_compared = models.BooleanField(default=True, help_text="Whether Valkey answered.")
    positions = models.JSONField(help_text="Per shard epoch:stream id:batch.")
    asked_by = models.CharField(max_length=150)

    class Meta:
        db_table = "reconciliations"
        ordering = ("-id",)
        default_permissions = ("view",)
        permissions = (
            ("reconcile_books", "Can have the books reconciled"),
            ("close_month", "Can close months, and say of gateways that nothing more comes from them"),
            ("correct_usage", "Can void and correct usage, and set dead letters aside"),
        )

    def __str__(self) -> str:
        return f"{self.finished_at:%Y-%m-%d %H:%M:%S} UTC: {self.state}"

    @property
    def is_zero(self) -> bool:
        """Whether everything was compared and nothing differed."""
        return self.found == 0 and self.counters_compared

    @property
    def state(self) -> str:
        """In one line."""
        compared = "" if self.counters_compared else ", live counters could not be read"
        differences = "no difference" if self.found == 0 else f"{self.found} differences"
        return f"{differences} in {self.pairs} services and consumers{compared}"


class Difference(models.Model):
    """What one reconciliation found wrong: where, by how much, and why it is thought so."""

    class Source(models.TextChoices):
        """Which of the books is at fault."""

        LEDGER = "ledger"
        ROLLUP = "rollup"
        PERIOD = "quota_period", "quota period"
        COUNTER = "counter", "live counter"
        EXPORT = "export"

    reconciliation = models.ForeignKey(Reconciliation, on_delete=models.CASCADE, related_name="differences")
    source = models.CharField(max_length=20, choices=Source)
    month = models.DateField(null=True, blank=True)
    consumer = models.ForeignKey(
        Consumer, on_delete=models.CASCADE, null=True, blank=True, related_name="+", db_constraint=False
    )
    service = models.ForeignKey(
        Service, on_delete=models.CASCADE, null=True, blank=True, related_name="+", db_constraint=False
    )
    export = models.ForeignKey(ExportJob, on_delete=models.CASCADE, null=True, blank=True, related_name="+")
    ledger = models.JSONField(default=dict, help_text="What the ledger says; amounts as text.")
    other = models.JSONField(default=dict, help_text="What the other book says.")
    cause = models.TextField()
    told_at = models.DateTimeField(
        null=True, help_text="When finance was written to of it, or of the same in the reconciliation before."
    )

    class Meta:
        db_table = "reconciliation_differences"
        ordering = ("id",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.source}: {self.cause}"

    @property
    def subject(self) -> tuple[Any, ...]:
        """Two differences about the same thing have the same."""
        return self.source, self.month, self.consumer_id, self.service_id, self.export_id


class ReportSchedule(models.Model):
    """A report that is sent every month, of the month before. Nobody is shown the credential again."""

    class Channel(models.TextChoices):
        EMAIL = "email", "E-mail"
        BUCKET = "bucket", "S3-compatible bucket"

    name = models.CharField(max_length=100)
    format = models.CharField(max_length=20, choices=ExportJob.Format)
    consumer = models.ForeignKey(
        Consumer, on_delete=models.PROTECT, null=True, blank=True, related_name="+", help_text="Blank: all."
    )
    day = models.PositiveSmallIntegerField(
        default=3,
        validators=[MinValueValidator(1), MaxValueValidator(28)],
        help_text="Day of the following month (UTC) from which it is sent.",
    )
    first_month = models.DateField(
        default=this_month, editable=False, help_text="The first month that is sent."
    )
    is_active = models.BooleanField(default=True)
    channel = models.CharField(max_length=10, choices=Channel)
    recipients = models.TextField(blank=True, help_text="Addresses, one a line. They see each other.")
    endpoint = models.CharField(
        max_length=255, blank=True, validators=[validate_endpoint], help_text="https://s3.example.com"
    )
    region = models.CharField(
        max_length=40, default="us-east-1", validators=[RegexValidator(r"^[a-z0-9-]+\Z")]
    )
    bucket = models.CharField(
        max_length=63, blank=True, validators=[RegexValidator(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")]
    )
    folder = models.CharField(
        max_length=200, blank=True, validators=[RegexValidator(r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*\Z")]
    )
    access_key = models.CharField(
        max_length=128, blank=True, validators=[RegexValidator(r"^[A-Za-z0-9_+=.@-]+\Z")]
    )
    credential = models.BinaryField(null=True, help_text="Sealed for the origin of endpoint.")
    credential_set_at = models.DateTimeField(null=True, editable=False)
    created_by = models.CharField(max_length=150, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "report_schedules"
        ordering = ("name", "id")
        default_permissions = ("add", "change", "view")
        permissions = (("send_report", "Can have a report sent again"),)

    def __str__(self) -> str:
        return self.name

    @property
    def addresses(self) -> list[str]:
        return self.recipients.split()

    def clean(self) -> None:
        if self.channel == self.Channel.EMAIL:
            if not self.addresses:
                raise ValidationError({"recipients": "To whom?"})
            for address in self.addresses:
                try:
                    validate_email(address)
                except ValidationError as error:
                    raise ValidationError({"recipients": "Not an address; one a line."}) from error
        elif not (self.endpoint and self.bucket and self.access_key and self.credential):
            raise ValidationError("A bucket needs endpoint, name, access key and secret key.")
        if self.endpoint and self.credential:
            self._require_own_credential()

    def _require_own_credential(self) -> None:
        try:
            open_for(self.endpoint, bytes(self.credential or b""))
        except ForAnotherOrigin as error:
            raise ValidationError(
                {"endpoint": "The secret key was given for another host: enter it again"}
            ) from error
        except Unsealable:
            return

    def set_credential(self, secret_key: str) -> None:
        """Seal it for where ``endpoint`` is."""
        validate_credential(secret_key)
        self.credential = seal_for(self.endpoint, secret_key)
        self.credential_set_at = clock.now()


class ReportDelivery(models.Model):
    """One month of one report. Moves from state to state by compare-and-set alone.

    ``unclear``: a letter was on its way when its sender died or the mail server went silent. It may have arrived, so it
    is not sent again unless a person says so. A bucket has no such state: the same object is put again.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        SENDING = "sending"
        SENT = "sent"
        UNCLEAR = "unclear"
        FAILED = "failed"

    schedule = models.ForeignKey(ReportSchedule, on_delete=models.PROTECT, related_name="deliveries")
    month = models.DateField()
    job = models.ForeignKey(ExportJob, on_delete=models.SET_NULL, null=True, related_name="+")
    state = models.CharField(max_length=10, choices=State, default=State.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    attempted_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=255, blank=True)
    told_at = models.DateTimeField(null=True, help_text="When finance was written to of its trouble.")

    class Meta:
        db_table = "report_deliveries"
        ordering = ("-month", "id")
        default_permissions = ("view",)
        verbose_name_plural = "report deliveries"
        constraints = (models.UniqueConstraint(fields=("schedule", "month"), name="one_delivery_a_month"),)

    def __str__(self) -> str:
        return f"{self.schedule} {self.month:%Y-%m}"


class ArchiveStep(models.Model):
    """What became of a closed month's rows; the last step of a month says where they are. Steps are only ever added.

    ``manifest``: see ``finance.archives``.
    """

    class Step(models.TextChoices):
        WRITTEN = "written", "written to a file, and read back"
        DETACHED = "detached", "out of the ledger, in a table beside it"
        DROPPED = "dropped", "in the file alone"
        RESTORED = "restored", "in the ledger again"

    month = models.DateField()
    step = models.CharField(max_length=10, choices=Step)
    at = models.DateTimeField(default=clock.now)
    by = models.CharField(max_length=255)
    file = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64)
    rows = models.BigIntegerField()
    totals = models.JSONField(help_text="What the rows cost: amount as text, by currency.")
    schema_version = models.PositiveSmallIntegerField()
    manifest = models.JSONField()

    class Meta:
        db_table = "archive_steps"
        ordering = ("-id",)
        default_permissions = ("view",)
        indexes = (models.Index(fields=("month",), name="idx_archive_steps_month"),)

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} {self.step}"
