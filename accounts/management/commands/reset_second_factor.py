"""``manage.py reset_second_factor``: for whoever lost the telephone and the codes on paper, and has nobody to ask."""

from typing import Any

from django.core.management.base import CommandParser

from accounts import second_factor
from common.commands import JsonCommand


class Command(JsonCommand):
    help = "Take a person's second factor away and end all their sign-ins and sessions; the audit trail tells of it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", help="the person's e-mail address")

    def answer(self, **options: Any) -> dict[str, Any]:
        user = second_factor.reset_by_email(options["email"], actor="reset_second_factor")
        return {"reset": user.get_username()}
