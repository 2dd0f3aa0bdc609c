"""``manage.py guard_audit``: hand the audit trail to a role that the application is not. Run as a superuser."""

from typing import Any

from django.core.management.base import CommandParser

from audit import ownership
from common.commands import JsonCommand


class Command(JsonCommand):
    help = (
        "Take ownership of the audit trail, and of the tables whose changes the database tells, from the application's "
        "role; it keeps reading and inserting, and changing rows of those tables. "
        "DATABASE_URL must be a superuser's, for this one command. Run it after every migrate."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--application-role", required=True, metavar="ROLE")
        parser.add_argument("--back", action="store_true", help="give it back, before a migrate")

    def answer(self, **options: Any) -> dict[str, Any]:
        act = ownership.take_back if options["back"] else ownership.hand_over
        act(application=options["application_role"])
        return {"owner": options["application_role"] if options["back"] else ownership.OWNER}
