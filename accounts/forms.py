"""Signing in to the console."""

from typing import Any

from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError

from accounts.attempts import one_attempt
from accounts.errors import SignInLocked
from audit.trail import address_of


class ConsoleSignInForm(AdminAuthenticationForm):
    def clean(self) -> dict[str, Any]:
        address = None if self.request is None else address_of(self.request)
        username = str(self.cleaned_data.get("username") or "")
        try:
            with one_attempt(username=username, address=address):
                return super().clean()
        except SignInLocked as busy:
            raise ValidationError(busy.detail) from busy
