"""``manage.py seed_demo``: the sample marketplace of ``make run``."""

import json
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from catalog.endpoints import validate_endpoint
from common.commands import JsonCommand
from consumption.demo import seed


class Command(JsonCommand):
    help = "Create the sample marketplace, or what of it is missing. Prints logins, key and services."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--upstream", required=True, help="base URL of the sample upstream")
        parser.add_argument(
            "--state",
            type=Path,
            default=settings.VAR_DIR / "demo.json",
            help="where what was told is kept, since passwords and key cannot be read back",
        )

    def answer(self, **options: Any) -> dict[str, Any]:
        validate_endpoint(options["upstream"])
        known = _read(options["state"])
        told = seed(upstream=options["upstream"], known=known)
        if any(known.get(name) != value for name, value in told.items()):
            _write(options["state"], {**known, **told})
        return told


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all, and never readable by others."""
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(state, file, indent=2)
            file.write("\n")
        new.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
