"""Sealing every stored credential again under the newest key."""

import logging
from dataclasses import dataclass

from catalog.models import Endpoint
from common.sealing import Unsealable, reseal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many credentials were sealed again, and how many no key opens. Without either, older keys may go."""

    rotated: int
    unreadable: int


def rotate_credentials() -> Rotation:
    """Seal again what is not yet under the first key. Killed anywhere, every row is under one key or the other."""
    rotated = unreadable = 0
    stored = Endpoint.objects.exclude(credential=None).order_by("id").values_list("id", "credential")
    for endpoint_id, credential in stored:
        sealed = bytes(credential or b"")
        try:
            fresh = reseal(sealed)
        except Unsealable:
            log.warning("the credential of endpoint %s cannot be opened", endpoint_id)
            unreadable += 1
            continue
        if fresh != sealed:
            # Whoever replaced it meanwhile used the first key.
            rotated += Endpoint.objects.filter(id=endpoint_id, credential=sealed).update(credential=fresh)
    return Rotation(rotated, unreadable)
