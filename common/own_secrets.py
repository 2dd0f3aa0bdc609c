"""What runs for long never runs on secrets that anybody can read in the source."""

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from common import sealing


def require() -> None:
    """Raises ``ImproperlyConfigured`` where a secret was left at its default: with it, anybody signs a token.

    All of them are named at once.
    """
    wrong = []
    if settings.SECRET_KEY == settings.KNOWN_SECRET_KEY:
        wrong.append("SECRET_KEY is not set")
    if settings.KNOWN_PEPPER in settings.KEY_PEPPERS.values():
        wrong.append("KEY_PEPPERS is not set")
    try:
        sealing.require_keys()
    except ImproperlyConfigured as error:
        wrong.append(str(error))
    if wrong:
        raise ImproperlyConfigured("; ".join(wrong))
