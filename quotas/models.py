"""What the comparison of live counters with the ledger found, and letters about budgets."""

from decimal import Decimal

from django.contrib.postgres.fields import ArrayField
from django.db import models

from accounts.budgets import BudgetPeriod
from accounts.models import Consumer
from catalog.models import Service
from common.money import NANO, plain


class QuotaDrift(models.Model):
    """A live counter that was wrong twice in a row: by the ledger, at one journal position, or by open leases."""

    RUNNING_CALLS = "running calls"

    # As loose as those of quota periods: a period whose consumer is gone can drift as well.
    consumer = models.ForeignKey(Consumer, on_delete=models.PROTECT, related_name="+", db_constraint=False)
    service = models.ForeignKey(
        Service, on_delete=models.PROTECT, related_name="+", db_constraint=False, null=True, blank=True
    )
    month = models.DateField(help_text="Or the day.")
    counted = models.CharField(max_length=100, default="tokens", help_text="What is counted.")
    currency = models.CharField(max_length=3, blank=True, help_text="Empty: tokens. Else nano-units of it.")
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

    def told(self, value: int) -> dict[str, object]:
        """A counter's value with its unit, JSON-ready."""
        if not self.currency:
            return {"calls" if self.counted.startswith(self.RUNNING_CALLS) else "tokens": value}
        return {"cost": plain(Decimal(value) / NANO), "currency": self.currency}


class BudgetNotice(models.Model):
    """A letter about a budget of which so much is spent: written down with what it tells of, sent afterwards, once."""

    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="+")
    scope = models.CharField(max_length=10, help_text="consumer, key or service.")
    of = models.UUIDField(help_text="The consumer, the key's lineage, or the service.")
    name = models.CharField(max_length=255)
    period = models.CharField(max_length=5, choices=BudgetPeriod)
    begins_on = models.DateField(help_text="The first UTC day of the period.")
    amount = models.DecimalField(max_digits=16, decimal_places=9)
    currency = models.CharField(max_length=3)
    soft = models.BooleanField()
    threshold = models.PositiveSmallIntegerField(help_text="Percent.")
    spent = models.DecimalField(max_digits=25, decimal_places=9, help_text="When it was written down.")
    created_at = models.DateTimeField(auto_now_add=True)
    attempted_at = models.DateTimeField(null=True, blank=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    sent_to = ArrayField(models.EmailField(), default=list, blank=True)

    class Meta:
        db_table = "budget_notices"
        ordering = ("-created_at",)
        constraints = (
            # A budget that is changed is another one.
            models.UniqueConstraint(
                fields=("consumer", "scope", "of", "currency", "period", "begins_on", "amount", "threshold"),
                name="one_notice_a_budget_period_and_threshold",
            ),
        )
        indexes = (
            models.Index(fields=("id",), condition=models.Q(sent_at=None), name="idx_budget_notices_unsent"),
        )

    def __str__(self) -> str:
        return f"{self.threshold} % of {self.name}, {self.period} of {self.begins_on}"
