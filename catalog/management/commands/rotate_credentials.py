"""``manage.py rotate_credentials``: encrypt stored credentials under the newest key."""

from dataclasses import asdict
from typing import Any

from catalog.rotation import rotate_credentials
from common.commands import JsonCommand


class Command(JsonCommand):
    help = (
        "Encrypt every credential again under the first of CREDENTIAL_KEYS. Prints how many were not yet under it, and "
        "how many no key opens. Run it until it rotates none; then the older keys may go."
    )

    def answer(self, **options: Any) -> dict[str, Any]:
        return asdict(rotate_credentials())
