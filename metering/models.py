"""The ledger (what was used and what it cost), its rollups, and the gateways that write to its journals."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any

from django.db import models

from accounts.models import Consumer
from catalog.models import PriceVersion, Service, Tier
from common import clock
from keys.models import ApiKey
from metering.journal_models import DeadLetter, JournalBatch, JournalPosition, ShardEpoch

#: Those of the journal are named here as well: Django looks for models nowhere else.
__all__ = [
    "ArchivedRequests", "ClosedMonth", "DailyUsageRollup", "DeadLetter", "DecimalDecoder", "Gateway", "JournalBatch",
    "JournalPosition", "QuotaPeriod", "ShardEpoch", "UsageRecord", "UsageRollup", "UsageSums",
]  # fmt: skip


class DecimalDecoder(json.JSONDecoder):
    """Reads JSON fractions as ``Decimal``, so that a stored cost never becomes a float."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "parse_float": Decimal})


class UsageRecord(models.Model):
    """One row of the ledger: one call that was let in, once and for ever.

    The table is partitioned by month of ``timestamp``, which is the moment inside ``request_id``; the primary
    key in the database is ``(id, timestamp)``. ``id = request_id`` for ``kind = usage``.
    """

    class Status(models.TextChoices):
        SUCCESS = "success"
        ERROR = "error"
        CANCELLED = "cancelled"
        UNSETTLED = "unsettled"

    class Kind(models.TextChoices):
        USAGE = "usage"
        CORRECTION = "correction"

    class Settlement(models.TextChoices):
        """How the record came to the journal."""

        LEASE = "lease", "settled in time"
        LATE = "late", "settled after its lease was gone"
        REPLAY = "replay", "handed in after an outage"
        REAPED = "reaped", "lease ran out, nobody settled"
        MANUAL = "manual", "entered by a person"
        REPRICED = "repriced", "priced again"

    id = models.UUIDField(primary_key=True)
    request_id = models.UUIDField()
    # Asked of the day's rollup once a day instead of every row: ``DailyUsageRollup``.
    service = models.ForeignKey(
        Service, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    consumer = models.ForeignKey(
        Consumer, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    price_version = models.ForeignKey(
        PriceVersion, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    tier = models.ForeignKey(
        Tier,
        on_delete=models.PROTECT,
        related_name="+",
        db_column="tier",
        db_index=False,
        db_constraint=False,
    )
    timestamp = models.DateTimeField()
    duration_ms = models.IntegerField()
    usage = models.JSONField(
        help_text="Tokens by kind, and usage_source: reported, estimated, clamped or none."
    )
    cost = models.JSONField(decoder=DecimalDecoder, help_text="amount, currency and how it came about.")
    total_tokens = models.BigIntegerField()
    cost_amount = models.DecimalField(max_digits=38, decimal_places=18)
    currency = models.CharField(max_length=3)
    status = models.CharField(max_length=50, choices=Status)
    error = models.JSONField(null=True, blank=True)
    kind = models.CharField(max_length=20, choices=Kind, default=Kind.USAGE)
    corrects = models.UUIDField(
        null=True,
        blank=True,
        help_text="The row that this one corrects. One that is unsettled itself voids it.",
    )
    settlement = models.CharField(max_length=20, choices=Settlement, default=Settlement.LEASE)
    metadata = models.JSONField(null=True, blank=True)

    class Meta:
        db_table = "usage_records"
        ordering = ("-timestamp",)
        indexes = (
            models.Index(fields=("service", "-timestamp"), name="idx_usage_service_timestamp"),
            models.Index(fields=("consumer", "-timestamp"), name="idx_usage_consumer_timestamp"),
            models.Index(
                fields=("corrects",), name="idx_usage_corrections", condition=models.Q(kind="correction")
            ),
        )

    def __str__(self) -> str:
        return f"{self.status} {self.id}"


class ClosedMonthQuerySet(models.QuerySet["ClosedMonth"]):
    def end(self) -> dt.datetime | None:
        """Rows of the ledger before this moment stay as they are; None where no month is closed."""
        last = self.order_by("-month").values_list("month", flat=True).first()
        return None if last is None else clock.month_start(clock.next_month(last))


class ClosedMonth(models.Model):
    """A UTC month whose rows of the ledger stay as they are, and every month before it.

    Months close in their order. What still comes for one becomes a correction in the month that is open then. Rows are
    written by ``metering.closed_months`` alone, and the database refuses to change or remove one.
    """

    month = models.DateField(primary_key=True, help_text="The first day of the month.")
    closed_at = models.DateTimeField(auto_now_add=True)
    closed_by = models.CharField(max_length=255, default="")
    records = models.BigIntegerField(default=0, help_text="Rows of the ledger, corrections among them.")
    corrections = models.BigIntegerField(default=0)
    tokens = models.DecimalField(max_digits=38, decimal_places=0, default=0)
    totals = models.JSONField(default=dict, help_text="What the rows cost: amount as text, by currency.")

    objects = ClosedMonthQuerySet.as_manager()

    class Meta:
        db_table = "closed_months"
        ordering = ("-month",)

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"


class ArchivedRequests(models.Model):
    """What is remembered of the requests of an archived month, some at a time: see ``metering.archived``."""

    month = models.DateField()
    first = models.UUIDField()
    packed = models.BinaryField()

    class Meta:
        db_table = "archived_requests"
        constraints = (models.UniqueConstraint(fields=("month", "first"), name="one_row_per_first_request"),)


class UsageSums(models.Model):
    """What a stretch of the ledger adds up to, kept in the same transaction that writes the ledger."""

    kind = models.CharField(
        max_length=20,
        choices=UsageRecord.Kind,
        default=UsageRecord.Kind.USAGE,
        db_default=UsageRecord.Kind.USAGE,
    )
    consumer = models.ForeignKey(
        Consumer, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    service = models.ForeignKey(
        Service, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    api_key = models.ForeignKey(
        ApiKey, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    price_version = models.ForeignKey(
        PriceVersion, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    tier = models.ForeignKey(
        Tier,
        on_delete=models.PROTECT,
        related_name="+",
        db_column="tier",
        db_index=False,
        db_constraint=False,
    )
    status = models.CharField(max_length=50, choices=UsageRecord.Status)
    currency = models.CharField(max_length=3)
    requests = models.BigIntegerField(default=0)
    charged = models.BigIntegerField(default=0, db_default=0, help_text="Requests that brought something.")
    duration_ms = models.BigIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    completion_tokens = models.BigIntegerField(default=0)
    cached_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0, db_default=0)
    audio_prompt_tokens = models.BigIntegerField(default=0, db_default=0)
    audio_completion_tokens = models.BigIntegerField(default=0, db_default=0)
    total_tokens = models.BigIntegerField(default=0)
    cost_amount = models.DecimalField(max_digits=38, decimal_places=18, default=0)
    upstream_requests = models.BigIntegerField(
        default=0, db_default=0, help_text="Requests whose cost at the upstream is known."
    )
    upstream_amount = models.DecimalField(
        max_digits=38, decimal_places=18, default=0, db_default=0, help_text="What those cost there."
    )

    class Meta:
        abstract = True


OWNERS = ("api_key", "price_version", "tier", "status", "kind", "currency")  # one row each, in a stretch


class UsageRollup(UsageSums):
    """Sums over one hour of the ledger."""

    hour = models.DateTimeField()

    class Meta:
        db_table = "usage_rollups"
        ordering = ("-hour",)
        constraints = (
            models.UniqueConstraint(
                fields=("consumer", "service", "hour", *OWNERS), name="one_rollup_per_hour"
            ),
        )
        indexes = (models.Index(fields=("service", "hour"), name="idx_rollups_service_hour"),)

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H}h {self.status}"


class DailyUsageRollup(UsageSums):
    """Sums over one UTC day of the ledger: whatever asks for whole days has a fraction of the rows to read."""

    # No usage of a service that is not there, and no service goes that was used: every row of the ledger is added to
    # one of these in its own transaction. The database asks when such a sum is made, not whenever it is added to.
    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="+", db_index=False)
    day = models.DateField()

    class Meta:
        db_table = "usage_daily_rollups"
        ordering = ("-day",)
        constraints = (
            models.UniqueConstraint(
                fields=("consumer", "service", "day", *OWNERS), name="one_rollup_per_day"
            ),
        )
        indexes = (models.Index(fields=("service", "day"), name="idx_rollups_service_day"),)

    def __str__(self) -> str:
        return f"{self.day} {self.status}"


class QuotaPeriod(models.Model):
    """Tokens of one consumer at one service in one UTC month, as the ledger has them."""

    consumer = models.ForeignKey(
        Consumer, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    service = models.ForeignKey(
        Service, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    month = models.DateField()
    used = models.BigIntegerField(default=0)
    granted = models.BigIntegerField(
        null=True, blank=True, help_text="The limit of the latest call; empty: none."
    )

    class Meta:
        db_table = "quota_periods"
        ordering = ("-month",)
        constraints = (
            models.UniqueConstraint(
                fields=("consumer", "service", "month"), name="one_quota_period_per_month"
            ),
        )

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}: {self.used}"


class Gateway(models.Model):
    """A gateway's slot (``consumption.spool``), and what its owner said last of calls that the ledger may not have.

    A slot outlives its owner: whoever takes it over goes on with its row. ``oldest_open``: when the oldest call began
    that is let in and not settled, waits in the spool, or is retained until the ledger has it; empty: there is none.
    """

    id = models.CharField(primary_key=True, max_length=64, help_text="The slot's name.")
    host = models.CharField(max_length=255)
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    open_calls = models.PositiveIntegerField(default=0)
    spooled = models.PositiveIntegerField(default=0)
    oldest_open = models.DateTimeField(null=True, blank=True)
    mode = models.CharField(
        max_length=10,
        default="normal",
        db_default="normal",
        help_text="Who decided about limits when it spoke last.",
    )
    ended_at = models.DateTimeField(
        null=True, blank=True, help_text="When it stopped in peace, or was taken over."
    )
    dismissed_at = models.DateTimeField(null=True, blank=True)
    dismissed_by = models.CharField(max_length=255, blank=True)
    note = models.TextField(blank=True, help_text="Why nothing more is expected of it.")

    class Meta:
        db_table = "gateways"
        ordering = ("-seen_at",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.host} {self.id[:8]}"

    def is_silent(self, since: dt.datetime) -> bool:
        """Whether it was not heard of since then, though it neither stopped nor was taken over or dismissed."""
        return self.ended_at is None and self.dismissed_at is None and self.seen_at < since
