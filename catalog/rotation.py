"""Sealing again, under the newest key, every row that was sealed: credentials of endpoints and authenticators."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from django.db import models

from accounts.authenticators import Authenticator
from catalog.models import Endpoint
from common.sealing import Unsealable, reseal

log = logging.getLogger(__name__)

#: Whatever is sealed and kept in PostgreSQL: what a row is called, its table and its column.
#: Apps above this one add their own (``also``).
SEALED: list[tuple[str, type[models.Model], str]] = [
    ("the credential of endpoint", Endpoint, "credential"),
    ("authenticator", Authenticator, "sealed"),
]


def also(name: str, model: type[models.Model], column: str) -> None:
    """What else is sealed. Called once, when an app is ready."""
    SEALED.append((name, model, column))


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many rows were not under the first key: sealed again, replaced by others meanwhile, and opened by no key."""

    rotated: int
    replaced: int
    unreadable: int

    @property
    def found_none(self) -> bool:
        return not (self.rotated or self.replaced or self.unreadable)


def rotate_credentials() -> Rotation:
    """Seal again what is not yet under the first key. Killed anywhere, every row is under one key or the other."""
    counts = {"rotated": 0, "replaced": 0, "unreadable": 0}
    for name, model, column in SEALED:
        for outcome in _rotate(name, model, column):
            counts[outcome] += 1
    return Rotation(**counts)


def _rotate(name: str, model: type[models.Model], column: str) -> Iterator[str]:
    """What came of each row that is not under the first key."""
    rows = model._default_manager.exclude(**{column: None}).order_by("pk").values_list("pk", column)
    for pk, stored in rows.iterator():
        sealed = bytes(stored)
        try:
            fresh = reseal(sealed)
        except Unsealable:
            log.warning("%s %s cannot be opened", name, pk)
            yield "unreadable"
            continue
        if fresh != sealed:
            # A row that was replaced meanwhile is left as it is: the next run looks at it.
            moved = model._default_manager.filter(pk=pk, **{column: sealed}).update(**{column: fresh})
            yield "rotated" if moved else "replaced"
