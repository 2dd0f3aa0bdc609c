"""API keys at rest: a public id to find them by, an Argon2id hash to prove them with, nothing that gives them back."""

import datetime as dt
import uuid

from django.db import models

from accounts.models import Consumer
from catalog.models import Service, Tier
from common import clock


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self, at: dt.datetime) -> "ApiKeyQuerySet":
        """Neither revoked nor expired at a moment."""
        return self.filter(revoked_at=None).filter(models.Q(expires_at=None) | models.Q(expires_at__gt=at))


class ApiKey(models.Model):
    """A credential of a consumer for one service, or (``service`` empty) for all it is entitled to."""

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
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    metadata = models.JSONField(default=dict, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        db_table = "api_keys"
        ordering = ("-created_at", "id")
        verbose_name = "API key"
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
