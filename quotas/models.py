"""What the comparison of live counters with the ledger found."""

from django.db import models

from accounts.models import Consumer
from catalog.models import Service


class QuotaDrift(models.Model):
    """A live counter that differed from the ledger twice in a row, compared at one journal position."""

    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="+")
    service = models.ForeignKey(Service, on_delete=models.CASCADE, related_name="+")
    month = models.DateField()
    counter = models.BigIntegerField()
    ledger = models.BigIntegerField()
    healed = models.BooleanField(default=False)
    reason = models.CharField(max_length=255)
    found_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "quota_drifts"
        ordering = ("-found_at",)

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}: {self.counter - self.ledger:+d}"
