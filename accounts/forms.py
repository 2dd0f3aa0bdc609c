"""Signing in to the console."""

from typing import Any, cast

from django.contrib.admin.forms import AdminAuthenticationForm
from django.core.exceptions import ValidationError

from accounts import attempts, second_factor
from accounts.errors import SignInLocked
from accounts.models import User
from audit.trail import address_of


class ConsoleSignInForm(AdminAuthenticationForm):
    def clean(self) -> dict[str, Any]:
        address = None if self.request is None else address_of(self.request)
        username = str(self.cleaned_data.get("username") or "")
        try:
            with attempts.one_attempt(username=username, address=address):
                cleaned = super().clean()
                user = cast(User | None, self.get_user())
                # Of whom a second factor is asked, the failures are forgotten after that.
                if user is not None and not second_factor.is_asked_of(user):
                    attempts.forget_failures(request=self.request, username=user.get_username())
                return cleaned
        except SignInLocked as busy:
            raise ValidationError(busy.detail) from busy
