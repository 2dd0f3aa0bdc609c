"""Commands for scripts: one JSON object on stdout, or one line on stderr and exit code 1."""

import json
import sys
from typing import Any, NoReturn

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from common.errors import Malformed, Problem
from common.parsing import strict_json


class JsonCommand(BaseCommand):
    """Subclasses say in ``answer`` what is printed. Raised there, ``ValidationError`` and ``Problem`` are refusals."""

    requires_system_checks = ()

    def answer(self, **options: Any) -> dict[str, Any]:
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            found = self.answer(**options)
        except ValidationError as error:
            raise CommandError(_in_one_line(error)) from error
        except Problem as error:
            raise CommandError(error.detail) from error
        except DatabaseError as error:
            raise CommandError(f"the database refused: {' '.join(str(error).split())}") from error
        self.stdout.write(json.dumps(found))

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Django's --version gives way to a command's own.
        parser = super().create_parser(prog_name, subcommand, conflict_handler="resolve", **kwargs)
        parser.error = _refuse  # type: ignore[method-assign] # argparse's own: two lines, exit code 2
        return parser


def json_option(name: str, text: str) -> Any:
    """The value of an option that is JSON."""
    try:
        return strict_json(text)
    except Malformed as error:
        raise CommandError(f"{name} is not valid JSON") from error


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"CommandError: {message}\n")
    raise SystemExit(1)


def _in_one_line(error: ValidationError) -> str:
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return "; ".join(
        (f"{name}: " if name != NON_FIELD_ERRORS else "") + " ".join(messages)
        for name, messages in error.message_dict.items()
    )
