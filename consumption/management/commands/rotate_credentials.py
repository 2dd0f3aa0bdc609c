"""``manage.py rotate_credentials``: encrypt what is stored under the newest key."""

from dataclasses import asdict
from typing import Any

from common.commands import JsonCommand
from consumption.key_retirement import prepare_retirement


class Command(JsonCommand):
    help = (
        "Encrypt credentials of upstreams and authenticators again under the first of CREDENTIAL_KEYS. Prints how many "
        "were not yet under it, how many no key opens, and how many answers that are kept for 24 hours are under "
        "another. Restart all processes with the new key first, and run it until it says older_keys_may_go: true."
    )

    def answer(self, **options: Any) -> dict[str, Any]:
        return asdict(prepare_retirement())
