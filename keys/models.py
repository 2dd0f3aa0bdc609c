"""API keys at rest: a public id to find them by, an Argon2id hash to prove them with, nothing that gives them back."""

import datetime as dt
import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models

from accounts.budgets import whole_budget_or_none
from accounts.models import Consumer
from catalog.limits import LimitFields
from catalog.models import Service, Tier
from common import clock
from common.networks import validate_network


class Scope(models.TextChoices):
    """What a key may be used for. What is not named is denied."""

    CONSUME = "consume", "Call services, and list them"
    USAGE_READ = "usage:read", "Read usage"
    QUOTA_READ = "quota:read", "Read quotas"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self, at: dt.datetime) -> "ApiKeyQuerySet":
        """Neither revoked nor expired at a moment."""
        return self.filter(revoked_at=None).filter(models.Q(expires_at=None) | models.Q(expires_at__gt=at))

    def latest_of_lineage(self) -> "ApiKeyQuerySet":
        """Keys that no rotation has replaced."""
        later = ApiKey.objects.filter(
            lineage=models.OuterRef("lineage"), generation__gt=models.OuterRef("generation")
        )
        return self.filter(~models.Exists(later))


class ApiKey(LimitFields):
    """A credential of a consumer for one service, or (``service`` empty) for all it is entitled to."""

    class Environment(models.TextChoices):
        LIVE = "live"
        TEST = "test"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    public_id = models.CharField(max_length=32, unique=True, editable=False)
    key_hash = models.CharField(max_length=255, unique=True, editable=False)
    last4 = models.CharField(max_length=4, editable=False)
    name = models.CharField(max_length=100, blank=True)
    consumer = models.ForeignKey(Consumer, on_delete=models.PROTECT, related_name="api_keys", db_index=False)
    service = models.ForeignKey(
        Service, on_delete=models.PROTECT, related_name="api_keys", null=True, blank=True, db_index=False
    )
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, db_column="tier", related_name="+")
    environment = models.CharField(
        max_length=4,
        choices=Environment,
        default=Environment.LIVE,
        help_text="Test keys reach the services marked for testing, live keys the others.",
    )
    scopes = ArrayField(models.CharField(max_length=20, choices=Scope), default=list, blank=True)
    allowed_networks = ArrayField(
        models.CharField(max_length=43, validators=[validate_network]),
        null=True,
        blank=True,
        help_text="Networks (CIDR) it may be used from. Empty: from anywhere.",
    )
    requests_per_second = models.PositiveIntegerField(
        null=True, blank=True, help_text="Of this key alone, below the tier's. 0 forbids, empty: unlimited."
    )
    tokens_per_month = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="Of this key alone, below the tier's. 0 forbids, empty: unlimited."
    )
    lineage = models.UUIDField(
        default=uuid.uuid4,
        editable=False,
        help_text="One for a key and all that rotation made of it. Limits of a key are counted by it, or rotating "
        "would be a way round them.",
    )
    generation = models.PositiveIntegerField(
        default=0, editable=False, help_text="How many keys of its lineage came before it."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="To the minute: written once a minute at most."
    )
    metadata = models.JSONField(default=dict, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        db_table = "api_keys"
        ordering = ("-created_at", "id")
        verbose_name = "API key"
        constraints = (
            models.UniqueConstraint(fields=("lineage", "generation"), name="one_key_per_generation"),
            whole_budget_or_none("whole_budget_or_none"),
        )
        indexes = (
            models.Index(fields=("consumer",), name="idx_api_keys_consumer"),
            models.Index(fields=("service",), name="idx_api_keys_service"),
            models.Index(fields=("key_hash",), name="idx_api_keys_hash"),
        )

    def __str__(self) -> str:
        return self.name or f"…{self.last4}"

    def usable(self, at: dt.datetime | None = None) -> bool:
        """Neither revoked nor expired (now, or at a moment)."""
        moment = at or clock.now()
        return self.revoked_at is None and (self.expires_at is None or moment < self.expires_at)

    @property
    def status(self) -> str:
        """``active``, ``expired`` or ``revoked``, now."""
        if self.revoked_at is not None:
            return "revoked"
        return "active" if self.usable() else "expired"

    @property
    def history(self) -> models.QuerySet["ApiKey"]:
        """All keys of its lineage, the first one first."""
        return ApiKey.objects.filter(lineage=self.lineage).order_by("generation")


class KeyNotice(models.Model):
    """A letter to the owners of a key: written down with what it tells of, sent afterwards, once."""

    class Kind(models.TextChoices):
        EXPIRES_IN_14_DAYS = "expires_in_14_days"
        EXPIRES_IN_3_DAYS = "expires_in_3_days"
        LEAKED = "leaked"

    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="notices")
    kind = models.CharField(max_length=20, choices=Kind)
    found_at = models.CharField(max_length=500, blank=True, help_text="Where a leaked key was found.")
    created_at = models.DateTimeField(auto_now_add=True)
    attempted_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "api_key_notices"
        constraints = (models.UniqueConstraint(fields=("api_key", "kind"), name="one_notice_of_a_kind"),)
        indexes = (
            models.Index(
                fields=("created_at",), condition=models.Q(sent_at=None), name="idx_key_notices_unsent"
            ),
        )

    def __str__(self) -> str:
        return f"{self.kind} {self.api_key}"
