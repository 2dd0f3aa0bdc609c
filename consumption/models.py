"""What consumption keeps in PostgreSQL (which calls were already made under an Idempotency-Key), and what the console
shows of gateways."""

import datetime as dt

from django.db import models
from django.db.models.functions import Now

from accounts.models import Consumer
from catalog.models import Service

#: How long a key stands for its call. After that it is a new key.
KEPT = dt.timedelta(hours=24)


class ClaimQuerySet(models.QuerySet["IdempotencyClaim"]):
    def in_force(self) -> "ClaimQuerySet":
        """Claims that still stand, by the database's clock: all gateways then agree."""
        return self.filter(created_at__gt=Now() - KEPT)


class IdempotencyClaim(models.Model):
    """One call of a consumer that was let in under a key. Its lease ends in the ledger: that row is the outcome.

    ``key_hash`` and ``digest``: see ``consumption.claims``. The key itself is nowhere.
    """

    consumer = models.ForeignKey(
        Consumer, on_delete=models.CASCADE, related_name="+", db_index=False, db_constraint=False
    )
    key_hash = models.BinaryField(max_length=32)
    digest = models.BinaryField(max_length=32)
    request_id = models.UUIDField()
    created_at = models.DateTimeField(db_default=Now())

    objects = ClaimQuerySet.as_manager()

    class Meta:
        db_table = "idempotency_claims"
        default_permissions = ()
        ordering = ("-created_at",)
        constraints = (models.UniqueConstraint(fields=("consumer", "key_hash"), name="one_claim_per_key"),)
        indexes = (models.Index(fields=("created_at",), name="idx_claims_created_at"),)

    def __str__(self) -> str:
        return f"claim of {self.request_id}"


class ServiceUpstream(Service):
    """A service, by the state of its endpoints."""

    class Meta:
        proxy = True
        default_permissions = ()
        verbose_name = "upstream state"
        verbose_name_plural = "upstream states"
