"""What runs for long never runs on secrets that anybody can read in the source."""

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from common import sealing


def require() -> None:
    """Raises ``ImproperlyConfigured`` where a secret was left at its default: with it, anybody signs a token."""
    if settings.SECRET_KEY == settings.KNOWN_SECRET_KEY:
        raise ImproperlyConfigured("SECRET_KEY is not set")
    if settings.KNOWN_PEPPER in settings.KEY_PEPPERS.values():
        raise ImproperlyConfigured("KEY_PEPPERS is not set")
    sealing.require_keys()
