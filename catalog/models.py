"""What is for sale: services, their effective-dated prices, the tiers, and who is entitled to what."""

import datetime as dt
import math
import uuid
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models, transaction

from accounts.models import Consumer
from catalog.endpoints import validate_endpoint
from catalog.pricing import parse_pricing
from common import clock


def validate_pricing(value: Any) -> None:
    """Raises ``ValidationError`` unless ``value`` has one of the contract's pricing shapes."""
    try:
        parse_pricing(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def validate_sla(value: Any) -> None:
    """Raises ``ValidationError`` unless ``value`` holds only known objectives, each a number in its range."""
    if not isinstance(value, dict):
        raise ValidationError("sla must be an object")
    for name, objective in value.items():
        if name not in {"latency_p95_ms", "error_rate", "uptime"}:
            raise ValidationError("sla knows latency_p95_ms, error_rate and uptime")
        if isinstance(objective, bool) or not isinstance(objective, int | float):
            raise ValidationError(f"{name} must be a number")
        if not 0 <= objective < math.inf:
            raise ValidationError(f"{name} must not be negative")
        if name != "latency_p95_ms" and objective > 1:
            raise ValidationError(f"{name} is a ratio between 0 and 1")


class Tier(models.Model):
    """How much one consumer may use of one service. ``0`` forbids, ``None`` is unlimited."""

    name = models.CharField(max_length=50, primary_key=True)
    rank = models.PositiveSmallIntegerField(unique=True, help_text="A higher rank is a higher tier.")
    requests_per_second = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_month = models.PositiveBigIntegerField(null=True, blank=True)

    class Meta:
        db_table = "tiers"
        ordering = ("rank",)

    def __str__(self) -> str:
        return self.name


class ServiceQuerySet(models.QuerySet["Service"]):
    @transaction.atomic
    def publish(self, **fields: Any) -> "Service":
        """Create a service together with its first price version."""
        service = self.model(**fields)
        service.full_clean()
        service.save(force_insert=True)
        service.publish_price(service.pricing)
        return service


class Service(models.Model):
    """An LLM service behind an OpenAI-compatible endpoint."""

    class Status(models.TextChoices):
        DRAFT = "draft"
        REVIEW = "review"
        ACTIVE = "active"
        DEPRECATED = "deprecated"
        SUSPENDED = "suspended"
        INACTIVE = "inactive"

    class Clearance(models.IntegerChoices):
        PUBLIC = 0
        INTERNAL = 1
        CONFIDENTIAL = 2
        RESTRICTED = 3

    SERVED = (Status.ACTIVE, Status.DEPRECATED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255)
    version = models.CharField(max_length=50)
    endpoint = models.TextField(
        validators=[validate_endpoint], help_text="Base URL of an OpenAI-compatible API: http://host:port/v1"
    )
    upstream_model = models.CharField(
        max_length=255, blank=True, help_text="Model name the upstream knows. Blank: the service's own name."
    )
    status = models.CharField(max_length=50, choices=Status, default=Status.ACTIVE)
    pricing = models.JSONField(validators=[validate_pricing], help_text="The latest published price.")
    sla = models.JSONField(default=dict, blank=True, validators=[validate_sla])
    region = models.CharField(
        max_length=20, blank=True, help_text="Where the upstream runs (for example: eu)."
    )
    clearance = models.PositiveSmallIntegerField(
        choices=Clearance, default=Clearance.INTERNAL, help_text="Highest data classification it may see."
    )
    default_max_tokens = models.PositiveIntegerField(
        default=1024, help_text="Output tokens reserved, and asked for, where a call names no max_tokens."
    )
    deadline_seconds = models.PositiveIntegerField(
        default=30, help_text="Total time for one call, retries included."
    )
    stream_deadline_seconds = models.PositiveIntegerField(
        default=600, help_text="Total time for one streamed call."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ServiceQuerySet.as_manager()

    class Meta:
        db_table = "services"
        ordering = ("name", "version")
        constraints = (
            models.UniqueConstraint(fields=("name", "version"), name="unique_service_version"),
            models.CheckConstraint(
                condition=models.Q(
                    status__in=("draft", "review", "active", "deprecated", "suspended", "inactive"),
                ),
                name="valid_status",
            ),
        )
        indexes = (
            models.Index(fields=("status",), name="idx_services_status"),
            models.Index(fields=("name",), name="idx_services_name"),
        )

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    def clean(self) -> None:
        """What is empty passes by the field's own validators, whatever it is empty of."""
        if not self.sla and not isinstance(self.sla, dict):
            raise ValidationError({"sla": "sla must be an object"})

    @transaction.atomic
    def publish_price(
        self, pricing: dict[str, Any], effective_from: dt.datetime | None = None
    ) -> "PriceVersion":
        """Make ``pricing`` valid from a moment on: now, where none is given. Earlier versions stay as they were."""
        validate_pricing(pricing)
        version = PriceVersion.objects.create(
            service=self, pricing=pricing, effective_from=effective_from or clock.now()
        )
        self.pricing = pricing
        self.save(update_fields=("pricing",))
        return version


class PriceVersion(models.Model):
    """A price and the moment it starts to hold. Never changed: the database refuses it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    service = models.ForeignKey(Service, on_delete=models.PROTECT, related_name="price_versions")
    pricing = models.JSONField(validators=[validate_pricing])
    effective_from = models.DateTimeField(default=clock.now)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "price_versions"
        ordering = ("service", "-effective_from")
        constraints = (
            models.UniqueConstraint(fields=("service", "effective_from"), name="one_price_at_a_time"),
        )

    def __str__(self) -> str:
        return f"{self.service} from {self.effective_from:%Y-%m-%d %H:%M:%S}"


class Entitlement(models.Model):
    """A consumer may call a service, at a tier."""

    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="entitlements")
    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="entitlements")
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, db_column="tier")

    class Meta:
        db_table = "entitlements"
        constraints = (
            models.UniqueConstraint(fields=("consumer", "service"), name="one_entitlement_per_service"),
        )

    def __str__(self) -> str:
        return f"{self.consumer}: {self.service} at {self.tier_id}"
