"""What is for sale: services, where they are, their effective-dated prices, the tiers, who is entitled to what."""

import datetime as dt
import uuid
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models, transaction

from accounts.budgets import whole_budget_or_none
from accounts.models import Consumer
from catalog.credentials import ForAnotherOrigin, open_for, seal_for, validate_credential
from catalog.endpoints import validate_endpoint
from catalog.limits import LimitFields, Limits, Override
from catalog.price_versions import PriceVersion
from catalog.pricing_shapes import currency_of
from catalog.validators import validate_pricing, validate_sla
from common import clock
from common.sealing import Unsealable

#: Migrations look for the validators here.
__all__ = [
    "MOST_SECONDS", "Endpoint", "Entitlement", "PriceVersion", "Service", "Tier", "validate_pricing", "validate_sla",
]  # fmt: skip

#: No silence of a call is waited for longer than an hour.
MOST_SECONDS = 3600
_SECONDS = (MinValueValidator(1), MaxValueValidator(MOST_SECONDS))


class Tier(LimitFields):
    """How much one consumer may use of one service. ``0`` forbids, ``None`` is unlimited."""

    name = models.CharField(max_length=50, primary_key=True)
    rank = models.PositiveSmallIntegerField(unique=True, help_text="A higher rank is a higher tier.")
    requests_per_second = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_month = models.PositiveBigIntegerField(null=True, blank=True)

    class Meta:
        db_table = "tiers"
        ordering = ("rank",)
        constraints = (whole_budget_or_none("whole_tier_budget"),)

    def __str__(self) -> str:
        return self.name


class ServiceQuerySet(models.QuerySet["Service"]):
    @transaction.atomic
    def publish(self, *, actor: str = "", price_from: dt.datetime | None = None, **fields: Any) -> "Service":
        """Create a service together with its first price version."""
        service = self.model(**fields)
        service.full_clean()
        service.save(force_insert=True)
        service.publish_price(service.pricing, price_from, actor=actor)
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

    class OutageMode(models.TextChoices):
        CLOSED = "closed", "Refuse calls (503)"
        LOCAL = "local", "Serve them out of each gateway's share"

    class OnClientGone(models.TextChoices):
        CANCEL = "cancel", "Cancel the upstream's work"
        DRAIN = "drain", "Read the upstream to its end"

    class Tokenizer(models.TextChoices):
        O200K = "o200k", "o200k: OpenAI's models, Llama 3"
        SPLIT = "split", "o200k, digits and line ends apart: Gemma, Qwen, Mistral"

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
    fallback = models.ForeignKey(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="falls_back",
        help_text="Serves the calls that no endpoint of this service can. Price, limits and record stay those of the "
        "service that was asked for, so the caller pays what was offered and you pay what the fallback costs.",
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
    connect_seconds = models.PositiveIntegerField(
        default=5, db_default=5, validators=_SECONDS, help_text="Longest time until a connection stands."
    )
    first_byte_seconds = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=_SECONDS,
        help_text="Longest wait for the first byte of an answer. Blank: the total time alone bounds it.",
    )
    idle_seconds = models.PositiveIntegerField(
        default=60,
        db_default=60,
        validators=_SECONDS,
        help_text="Longest silence between two bytes of a stream.",
    )
    least_bytes_per_second = models.PositiveIntegerField(
        default=1,
        db_default=1,
        null=True,
        blank=True,
        validators=(MinValueValidator(1),),
        help_text="A body that comes more slowly is given up. Blank: it may drip for as long as the total time allows.",
    )
    on_client_gone = models.CharField(
        max_length=10,
        choices=OnClientGone,
        default=OnClientGone.CANCEL,
        db_default=OnClientGone.CANCEL,
        help_text="What becomes of a stream whose caller went away. What was delivered is charged either way.",
    )
    outage_mode = models.CharField(
        max_length=10,
        choices=OutageMode,
        default=OutageMode.CLOSED,
        db_default=OutageMode.CLOSED,
        help_text="What becomes of calls while Valkey, which counts the limits, is away. For local mode every gateway "
        "holds a share of each consumer's quota in advance.",
    )
    tokenizer = models.CharField(
        max_length=10,
        choices=Tokenizer,
        blank=True,
        default="",
        db_default="",
        help_text="How tokens are counted where the upstream reports none. Blank: by the name of the model.",
    )
    testing = models.BooleanField(
        default=False,
        db_default=False,
        help_text="For trying things out: test keys reach it and nothing else, live keys do not reach it.",
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
            models.CheckConstraint(
                condition=models.Q(connect_seconds__range=(1, MOST_SECONDS)), name="valid_connect_seconds"
            ),
            models.CheckConstraint(
                condition=models.Q(first_byte_seconds__range=(1, MOST_SECONDS)),
                name="valid_first_byte_seconds",
            ),
            models.CheckConstraint(
                condition=models.Q(idle_seconds__range=(1, MOST_SECONDS)), name="valid_idle_seconds"
            ),
            models.CheckConstraint(
                condition=models.Q(least_bytes_per_second__gte=1), name="valid_least_bytes_per_second"
            ),
            models.CheckConstraint(
                condition=models.Q(on_client_gone__in=("cancel", "drain")), name="valid_on_client_gone"
            ),
            models.CheckConstraint(
                condition=models.Q(outage_mode__in=("closed", "local")), name="valid_outage_mode"
            ),
            models.CheckConstraint(
                condition=models.Q(tokenizer__in=("", "o200k", "split")), name="valid_tokenizer"
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
        if self._falls_back_to_itself():
            raise ValidationError({"fallback": "It would fall back to itself"})
        if self.fallback is not None and self.fallback.testing != self.testing:
            raise ValidationError({"fallback": "One of the two is for testing, the other is not"})
        if self.falls_back.exclude(testing=self.testing).exists():
            raise ValidationError({"testing": "A service that is not of this kind falls back to it"})

    def _falls_back_to_itself(self) -> bool:
        """Along the whole chain. The database holds it for good: ``refuse_fallback_cycle``."""
        step = self.fallback_id
        while step is not None and step != self.id:
            step = Service.objects.filter(id=step).values_list("fallback_id", flat=True).first()
        return step is not None

    @transaction.atomic
    def publish_price(
        self, pricing: dict[str, Any], effective_from: dt.datetime | None = None, *, actor: str = ""
    ) -> PriceVersion:
        """Make ``pricing`` valid from a moment on: now, where none is given. Earlier versions stay as they were.

        Where prices have to be approved it waits until somebody other than ``actor`` does so.
        """
        validate_pricing(pricing)
        if settings.PRICE_APPROVAL_REQUIRED:
            return PriceVersion.objects.create(
                service=self, pricing=pricing, effective_from=effective_from, proposed_by=actor
            )
        now = clock.now()
        version = PriceVersion.objects.create(
            service=self,
            pricing=pricing,
            effective_from=effective_from or now,
            proposed_by=actor,
            approved_by=actor,
            approved_at=now,
        )
        self.pricing = pricing
        self.save(update_fields=("pricing",))
        return version


class Endpoint(models.Model):
    """One place where a service's calls may go. A service without any is at its own ``endpoint``, and only there."""

    class Protocol(models.TextChoices):
        OPENAI = "openai", "OpenAI"
        ANTHROPIC = "anthropic", "Anthropic"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="endpoints")
    base_url = models.TextField(
        "base URL",
        validators=[validate_endpoint],
        help_text="As its own clients take it: http://host:port/v1",
    )
    protocol = models.CharField(max_length=20, choices=Protocol, default=Protocol.OPENAI)
    upstream_model = models.CharField(
        max_length=255, blank=True, help_text="Model name it knows. Blank: the service's."
    )
    weight = models.PositiveIntegerField(
        default=1,
        validators=(MinValueValidator(1), MaxValueValidator(1000)),
        help_text="Its share among the endpoints of one order.",
    )
    order = models.PositiveSmallIntegerField(
        default=0, help_text="0 first. A higher one is called only where none of a lower order can serve."
    )
    enabled = models.BooleanField(default=True)
    cost_pricing = models.JSONField(
        "upstream price",
        null=True,
        blank=True,
        validators=[validate_pricing],
        help_text="What a call costs us there, written as prices are, in the currency of the service's price. Kept "
        "beside the cost of each call, so that the margin is known. Blank: not known.",
    )
    credential = models.BinaryField(null=True, help_text="Sealed for the origin of base_url: set_credential.")
    credential_set_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        db_table = "service_endpoints"
        ordering = ("service", "order", "id")
        constraints = (
            models.CheckConstraint(
                condition=models.Q(protocol__in=("openai", "anthropic")), name="valid_protocol"
            ),
            models.CheckConstraint(condition=models.Q(weight__range=(1, 1000)), name="valid_weight"),
            models.CheckConstraint(
                condition=models.Q(credential=None, credential_set_at=None)
                | models.Q(credential__isnull=False, credential_set_at__isnull=False),
                name="credential_and_its_time",
            ),
        )

    def __str__(self) -> str:
        return self.base_url

    def set_credential(self, text: str | None) -> None:
        """Keep ``text`` for the origin of ``base_url``, which must be valid, or nothing. Raises ``ValidationError``."""
        if text is not None:
            validate_credential(text)
        self.credential = None if text is None else seal_for(self.base_url, text)
        self.credential_set_at = None if text is None else clock.now()

    def open_credential(self) -> str | None:
        """What is sent along; None where nothing is. Raises ``Unsealable`` where it cannot be, or must not be."""
        return None if self.credential is None else open_for(self.base_url, bytes(self.credential))

    def clean(self) -> None:
        """A credential does not move to another host. One that no key opens is no reason to refuse other changes."""
        try:
            self.open_credential()
        except ForAnotherOrigin as error:
            raise ValidationError(
                {"base_url": "The credential was given for another host: enter it again, or remove it"}
            ) from error
        except Unsealable:
            pass
        if self.cost_pricing and self._costs_other_money():
            raise ValidationError({"cost_pricing": "It must be in the currency of the service's price"})

    def _costs_other_money(self) -> bool:
        service = Service.objects.filter(id=self.service_id).first()
        try:
            return service is not None and currency_of(self.cost_pricing) != currency_of(service.pricing)
        except ValueError:
            return False  # told of by the field itself


class Entitlement(LimitFields):
    """A consumer may call a service, at a tier. Limits that are set here hold instead of the tier's."""

    #: Limits that hold for the caller whom ``catalog.listing`` found it for.
    in_force: Limits

    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="entitlements")
    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="entitlements")
    tier = models.ForeignKey(Tier, on_delete=models.PROTECT, db_column="tier")
    requests_per_second = models.PositiveIntegerField(
        null=True, blank=True, help_text="0 forbids, empty: as the tier says."
    )
    tokens_per_month = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="0 forbids, empty: as the tier says."
    )

    class Meta:
        db_table = "entitlements"
        constraints = (
            whole_budget_or_none("whole_entitlement_budget"),
            models.UniqueConstraint(fields=("consumer", "service"), name="one_entitlement_per_service"),
        )

    def __str__(self) -> str:
        return f"{self.consumer}: {self.service} at {self.tier_id}"

    @property
    def limits(self) -> Limits:
        """The tier's, but for what is set here."""
        return self.limits_at(self.tier)

    def limits_at(self, tier: Tier) -> Limits:
        """What holds for calls at ``tier``: the entitlement's own, or a lower one that a key was issued for."""
        return Override(self.own_limits, tier.pk == self.tier_id).applied_to(tier.own_limits)
