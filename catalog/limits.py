"""Limits that tiers, entitlements and keys may have. ``0`` forbids, ``None`` is unlimited."""

from dataclasses import dataclass
from typing import Any

from django.db import models

from accounts.budgets import Budget, BudgetFields


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a tier, or those that an entitlement sets instead. ``0`` forbids, ``None`` is unlimited."""

    requests_per_second: int | None = None
    tokens_per_month: int | None = None
    concurrent_requests: int | None = None
    tokens_per_minute: int | None = None
    budget: Budget | None = None

    def overridden(self, by: "Limits") -> "Limits":
        """What is set of ``by``, and the rest of these."""
        return Limits(*(mine if other is None else other for mine, other in self._beside(by)))

    def capped(self, by: "Limits") -> "Limits":
        """The lower one of each number; the budget of ``by`` where it has one."""
        numbers: list[Any] = [
            min((one for one in pair if one is not None), default=None) for pair in self._beside(by)[:-1]
        ]
        return Limits(*[*numbers, by.budget or self.budget])

    def _beside(self, other: "Limits") -> list[tuple[Any, Any]]:
        return [(getattr(self, name), getattr(other, name)) for name in self.__slots__]


@dataclass(frozen=True, slots=True)
class Override:
    """Limits that an entitlement sets. ``own_tier``: the tier in force is the entitlement's.

    Where it is a lower one, that the key was issued for, an override is no way past that.
    """

    limits: Limits
    own_tier: bool

    def applied_to(self, tier: Limits) -> Limits:
        return tier.overridden(self.limits) if self.own_tier else tier.capped(self.limits)


class LimitFields(BudgetFields):
    """Columns of the limits beside requests per second and tokens per month, which every table words for itself."""

    requests_per_second: "models.PositiveIntegerField[int | None, int | None]"
    tokens_per_month: "models.PositiveBigIntegerField[int | None, int | None]"
    concurrent_requests = models.PositiveIntegerField(
        null=True, blank=True, help_text="Calls that may run at once. 0 forbids, empty: unlimited."
    )
    tokens_per_minute = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        help_text="A bucket of so many, refilled in a minute. One call takes at most all of it. 0 forbids, empty: "
        "unlimited.",
    )

    class Meta:
        abstract = True

    @property
    def own_limits(self) -> Limits:
        """What the row itself sets."""
        return Limits(
            self.requests_per_second,
            self.tokens_per_month,
            self.concurrent_requests,
            self.tokens_per_minute,
            self.budget,
        )
