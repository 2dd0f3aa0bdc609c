"""Policies an operator writes, and the calls they refused."""

import uuid

from django.core.exceptions import ValidationError
from django.db import models

from accounts.models import Consumer
from catalog.models import Service
from policy.engine import policy_error


def validate_cedar(text: str) -> None:
    """Raises ``ValidationError`` where the text is not exactly one ``forbid`` that the engine can decide."""
    if error := policy_error(text):
        raise ValidationError(error)


class Severity(models.TextChoices):
    WARNING = "warning"
    CRITICAL = "critical"


class Policy(models.Model):
    """One rule in the Cedar language. A call passes when no enabled rule forbids it."""

    class FailMode(models.TextChoices):
        OPEN = "open", "open: allow when it cannot be decided"
        CLOSED = "closed", "closed: deny when it cannot be decided"

    id = models.SlugField(primary_key=True, max_length=100)
    description = models.CharField(max_length=255, help_text="Told to the caller as the reason of a refusal.")
    text = models.TextField(validators=[validate_cedar], help_text="A Cedar policy.")
    severity = models.CharField(max_length=20, choices=Severity, default=Severity.WARNING)
    fail_mode = models.CharField(max_length=20, choices=FailMode, default=FailMode.CLOSED)
    enabled = models.BooleanField(default=True)

    class Meta:
        db_table = "policies"
        ordering = ("id",)
        verbose_name_plural = "policies"

    def __str__(self) -> str:
        return self.id


class PolicyViolation(models.Model):
    """A call that a policy refused. Nothing of the call's content is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    request_id = models.UUIDField()
    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="+")
    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="+")
    policy_id = models.CharField(max_length=100)
    severity = models.CharField(max_length=20, choices=Severity)
    reason = models.CharField(max_length=255)
    timestamp = models.DateTimeField()

    class Meta:
        db_table = "policy_violations"
        ordering = ("-timestamp",)
        indexes = (
            models.Index(fields=("service", "-timestamp"), name="idx_policy_violations_service"),
            models.Index(fields=("-timestamp",), name="idx_policy_violations_time"),
            models.Index(fields=("request_id",), name="idx_policy_violations_request"),
        )

    def __str__(self) -> str:
        return f"{self.policy_id} {self.request_id}"
