"""Refusals about keys that are managed; those about keys presented are in ``keyring``."""

from common.errors import NotFound


class KeyUnknown(NotFound):
    """Absent, or of another consumer: the two look alike."""

    code, title = "key_not_found", "No such API key"
