"""A person's authenticator app, as the person has it in hand."""

from django_otp.oath import totp

from accounts import second_factor
from accounts.authenticators import Authenticator
from accounts.models import User


def shown(device: Authenticator, *, steps: int = 0) -> str:
    """What the app shows, ``steps`` of 30 s from now."""
    return f"{totp(device.secret, t0=-30 * steps):06d}"


def enrolled(user: User) -> tuple[Authenticator, list[str]]:
    """A device whose code of the step before this one is used up, and the codes on paper."""
    device = second_factor.begin(user)
    backup = second_factor.confirm(user, shown(device, steps=-1))
    return Authenticator.objects.get(user=user), backup
