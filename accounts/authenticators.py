"""The second factor of a person: an app that shows codes (TOTP, RFC 6238), and codes on paper for when it is lost."""

import base64
import hashlib
import secrets
from typing import Any
from urllib.parse import quote, urlencode

from django.conf import settings
from django.db import models
from django_otp.models import Device, ThrottlingMixin
from django_otp.oath import TOTP

from common import clock, sealing

SECRET_BYTES = 20
#: Steps of 30 s by which a person's clock may be off, either way.
TOLERANCE = 1
#: Failures after which the pause no longer doubles: 512 s.
MOST_FAILURES = 10


class Authenticator(ThrottlingMixin, Device):  # type: ignore[misc]  # neither has types
    """An app that shows codes, one a person; ``confirmed`` once it has shown one. Its secret is sealed.

    Verify under a lock of the row: a code is good once, and failures make the next try wait, longer each time.
    """

    # The library has no types, and so its fields want theirs said.
    user: "models.OneToOneField[Any, Any]" = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="authenticator"
    )
    sealed: "models.BinaryField[Any, Any]" = models.BinaryField(max_length=300)
    #: The step whose code was the last to be accepted.
    last_step: "models.BigIntegerField[Any, Any]" = models.BigIntegerField(default=-1)
    created_at: "models.DateTimeField[Any, Any]" = models.DateTimeField(auto_now_add=True)
    throttling_failure_count: Any

    class Meta:
        db_table = "authenticators"
        default_permissions = ()

    def get_throttle_factor(self) -> int:
        return 1

    @property
    def secret(self) -> bytes:
        return sealing.unseal(bytes(self.sealed))

    @property
    def opens(self) -> bool:
        """Whether one of our keys opens it."""
        try:
            return bool(self.secret)
        except sealing.Unsealable:
            return False

    @property
    def secret_text(self) -> str:
        """As it is typed into an app."""
        return base64.b32encode(self.secret).decode()

    @property
    def address(self) -> str:
        """As an app reads it from a QR code (``otpauth://``)."""
        issuer = "LLM marketplace"
        asked = urlencode({"secret": self.secret_text, "issuer": issuer}, quote_via=quote)
        return f"otpauth://totp/{quote(f'{issuer}:{self.user.get_username()}')}?{asked}"

    def verify_token(self, token: str) -> bool:
        """Whether the app shows this code now, and it was not given before."""
        if not (len(token) == 6 and token.isascii() and token.isdigit()):
            return False
        totp = TOTP(self.secret)
        totp.time = clock.now().timestamp()
        if not totp.verify(int(token), TOLERANCE, self.last_step + 1):
            return False
        self.last_step = totp.t()
        return True

    def failed(self) -> None:
        """The next try has to wait."""
        self.throttle_increment(commit=False)
        self.throttling_failure_count = min(self.throttling_failure_count, MOST_FAILURES)


class BackupCode(models.Model):
    """A code on paper, good once. What is kept of it gives it back to nobody: it has 64 random bits."""

    authenticator = models.ForeignKey(Authenticator, on_delete=models.CASCADE, related_name="backup_codes")
    digest = models.BinaryField(max_length=32)
    used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "backup_codes"
        default_permissions = ()
        constraints = (
            models.UniqueConstraint(fields=("authenticator", "digest"), name="one_of_each_backup_code"),
        )

    @staticmethod
    def new() -> str:
        text = secrets.token_hex(8)
        return "-".join(text[at : at + 4] for at in range(0, 16, 4))

    @staticmethod
    def digest_of(text: str) -> bytes:
        return hashlib.sha256(text.strip().lower().replace("-", "").encode()).digest()
