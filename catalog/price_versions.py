"""Prices and the moments from which they hold."""

import datetime as dt
import uuid

from django.db import models

from catalog.validators import validate_pricing
from common import clock


class PriceVersionQuerySet(models.QuerySet["PriceVersion"]):
    def approved(self) -> "PriceVersionQuerySet":
        """Those that hold, or will."""
        return self.filter(approved_at__isnull=False)

    def waiting(self) -> "PriceVersionQuerySet":
        """Those that nobody has approved yet."""
        return self.filter(approved_at=None)


class PriceVersion(models.Model):
    """A price and the moment it starts to hold.

    It is changed once, by being approved, and then never again, nor removed: the database refuses it.
    ``effective_from`` is empty where it is to hold from its approval on.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    service = models.ForeignKey("catalog.Service", on_delete=models.PROTECT, related_name="price_versions")
    pricing = models.JSONField(validators=[validate_pricing])
    effective_from = models.DateTimeField(null=True, blank=True, default=clock.now)
    created_at = models.DateTimeField(auto_now_add=True)
    proposed_by = models.CharField(max_length=150, blank=True, default="", db_default="")
    approved_by = models.CharField(max_length=150, blank=True, default="", db_default="")
    approved_at = models.DateTimeField(null=True, blank=True)

    objects = PriceVersionQuerySet.as_manager()

    class Meta:
        db_table = "price_versions"
        ordering = ("service", "-effective_from")
        permissions = (("approve_priceversion", "Can approve and refuse prices of others"),)
        constraints = (
            models.UniqueConstraint(fields=("service", "effective_from"), name="one_price_at_a_time"),
            models.CheckConstraint(
                condition=models.Q(approved_at=None) | models.Q(effective_from__isnull=False),
                name="approved_price_has_a_time",
            ),
        )

    def __str__(self) -> str:
        since = f"{self.effective_from:%Y-%m-%d %H:%M:%S}" if self.effective_from else "its approval"
        return f"{self.service} from {since}"

    @property
    def begins(self) -> dt.datetime:
        """When it starts to hold, or did. Raises ``ValueError`` for one that holds from its approval, and waits."""
        if self.effective_from is None:
            raise ValueError("it has not been approved")
        return self.effective_from
