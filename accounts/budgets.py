"""Budgets: how much money may be spent in a UTC day or month."""

from dataclasses import dataclass
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

#: Live budgets are counted in integer nano-units, exact up to 2^53 (about nine million).
MOST_BUDGET = 9_000_000
AMOUNT = (MinValueValidator(0), MaxValueValidator(MOST_BUDGET))
CURRENCY = RegexValidator(r"\A[A-Z]{3}\Z", "Three capital letters (ISO 4217)")


class BudgetPeriod(models.TextChoices):
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class Budget:
    """Money that may be spent in one ``period``: ``day`` or ``month``, UTC. ``soft``: it tells, and refuses nothing.

    It covers services of its own currency only.
    """

    amount: Decimal
    currency: str
    period: str
    soft: bool = False


class BudgetFields(models.Model):
    """Columns of one budget, or of none."""

    budget_amount = models.DecimalField(
        max_digits=16,
        decimal_places=9,
        null=True,
        blank=True,
        validators=AMOUNT,
        help_text="Money it may cost in one period. 0 forbids, empty: unlimited.",
    )
    budget_currency = models.CharField(max_length=3, blank=True, default="", db_default="")
    budget_period = models.CharField(
        max_length=5, choices=BudgetPeriod, blank=True, default="", db_default=""
    )
    budget_soft = models.BooleanField(
        default=False, db_default=False, help_text="It is told at 80 and 100 %, and refuses nothing."
    )

    class Meta:
        abstract = True

    @property
    def budget(self) -> Budget | None:
        """The budget; None where there is none."""
        if self.budget_amount is None:
            return None
        return Budget(self.budget_amount, self.budget_currency, self.budget_period, self.budget_soft)

    def clean(self) -> None:
        super().clean()
        given = [self.budget_amount is not None, bool(self.budget_currency), bool(self.budget_period)]
        if any(given) and not all(given):
            raise ValidationError(
                {"budget_amount": "A budget is an amount, a currency and a period, or nothing"}
            )
        if self.budget_currency:
            CURRENCY(self.budget_currency)


def whole_budget_or_none(name: str) -> models.CheckConstraint:
    """The same rule in the database, for a table of ``BudgetFields``."""
    return models.CheckConstraint(
        condition=models.Q(budget_amount=None, budget_currency="", budget_period="")
        | models.Q(budget_amount__gte=0, budget_currency__regex="^[A-Z]{3}$")
        & models.Q(budget_period__in=("day", "month")),
        name=name,
    )
