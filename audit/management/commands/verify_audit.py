"""``manage.py verify_audit``: whether the audit trail is as it was written."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from audit import anchors, chain
from common.commands import JsonCommand


class Command(JsonCommand):
    help = (
        'Verify the chain of audit entries against its hashes and anchors. Prints {"entries": …, "head": …, '
        '"anchors": …}, or the first broken row and exit code 1.'
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--anchored", action="store_true", help="fail where no anchor vouches for the chain at all"
        )

    def answer(self, **options: Any) -> dict[str, Any]:
        # Read first: an anchor that is written meanwhile may be of a link that the walk does not see yet.
        anchored = anchors.read()
        head = chain.verify(anchored)
        if options["anchored"] and head.sequence and not anchored:
            raise CommandError(f"no anchor vouches for the chain: {anchors.path()} is missing or empty")
        return {"entries": head.sequence, "head": head.hash, "anchors": len(anchored)}
