"""Consumers: organisations that call services and pay for it, and the people who act for them."""

import uuid
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models

from accounts.budgets import AMOUNT, CURRENCY, Budget, BudgetPeriod


class User(AbstractUser):
    """A person: an operator of the marketplace, or a member of a consumer organisation."""

    #: Raised, it ends all sessions of the person (``sign_ins.end_all``).
    session_round = models.PositiveIntegerField(default=0, db_default=0, editable=False)

    class Meta(AbstractUser.Meta):  # type: ignore[name-defined, misc] # the stubs lack it
        db_table = "users"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """All fields but ``session_round``: a form that was filled in meanwhile would set it back."""
        if not (self._state.adding or args or kwargs.get("update_fields")):
            kept = {"id", "session_round", *self.get_deferred_fields()}
            kwargs["update_fields"] = {field.name for field in self._meta.concrete_fields} - kept
        super().save(*args, **kwargs)

    def _get_session_auth_hash(self, secret: str | None = None) -> str:
        """What a session of now has to know; Django compares it on every request."""
        return f"{super()._get_session_auth_hash(secret=secret)}.{self.session_round}"  # type: ignore[misc]  # not in the stubs


class Consumer(models.Model):
    """An organisation with keys, limits and an invoice."""

    class Status(models.TextChoices):
        ACTIVE = "active"
        SUSPENDED = "suspended"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=255)
    status = models.CharField(max_length=20, choices=Status, default=Status.ACTIVE)
    residency = models.CharField(
        max_length=20,
        blank=True,
        help_text="Region its data must stay in (for example: eu). Blank: anywhere.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    members: "models.ManyToManyField[User, Membership]" = models.ManyToManyField(
        User, through="Membership", related_name="consumers"
    )

    class Meta:
        db_table = "consumers"
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    """What a person may do for a consumer."""

    class Role(models.TextChoices):
        OWNER = "owner"
        DEVELOPER = "developer"
        BILLING = "billing"
        VIEWER = "viewer"

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=20, choices=Role, default=Role.VIEWER)

    class Meta:
        db_table = "memberships"
        constraints = (models.UniqueConstraint(fields=("user", "consumer"), name="one_role_per_consumer"),)

    def __str__(self) -> str:
        return f"{self.user} as {self.role} of {self.consumer}"

    @property
    def manages_keys(self) -> bool:
        """Owners and developers issue and revoke keys."""
        return self.role in {self.Role.OWNER, self.Role.DEVELOPER}


class ExternalIdentity(models.Model):
    """A person as an OpenID provider names them: ``iss`` and ``sub`` of its tokens."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="identities")
    issuer = models.CharField(max_length=255, help_text="As in OPENID_PROVIDERS.")
    subject = models.CharField(max_length=255)

    class Meta:
        db_table = "external_identities"
        verbose_name_plural = "external identities"
        constraints = (models.UniqueConstraint(fields=("issuer", "subject"), name="one_person_per_identity"),)

    def __str__(self) -> str:
        return f"{self.subject} of {self.issuer}"


class ConsumerBudget(models.Model):
    """Money that all calls of a consumer may cost in a UTC day or month, at services of one currency."""

    consumer = models.ForeignKey(Consumer, on_delete=models.CASCADE, related_name="budgets")
    amount = models.DecimalField(
        max_digits=16, decimal_places=9, validators=AMOUNT, help_text="0 forbids every call in this currency."
    )
    currency = models.CharField(max_length=3, validators=[CURRENCY], help_text="ISO 4217, for example USD.")
    period = models.CharField(max_length=5, choices=BudgetPeriod)
    soft = models.BooleanField(
        default=False, db_default=False, help_text="It is told at 80 and 100 %, and refuses nothing."
    )

    class Meta:
        db_table = "consumer_budgets"
        ordering = ("consumer", "currency", "period")
        constraints = (
            models.UniqueConstraint(
                fields=("consumer", "currency", "period"), name="one_budget_a_currency_and_period"
            ),
            models.CheckConstraint(
                condition=models.Q(amount__gte=0, currency__regex="^[A-Z]{3}$", period__in=("day", "month")),
                name="valid_consumer_budget",
            ),
        )

    def __str__(self) -> str:
        return f"{self.consumer}: {self.amount:f} {self.currency} a {self.period}"

    @property
    def value(self) -> Budget:
        return Budget(self.amount, self.currency, self.period, self.soft)


class SignIn(models.Model):
    """One signing in over the REST API, and the refresh token of it that is good now (``jti``)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="sign_ins")
    refresh_id = models.CharField(max_length=32)
    renewed_at = models.DateTimeField(auto_now_add=True, db_index=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "sign_ins"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.id)


from accounts.authenticators import Authenticator, BackupCode  # noqa: E402, F401 - Django looks for models here
