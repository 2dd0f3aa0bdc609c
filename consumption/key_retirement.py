"""Whether anything still needs the older of ``CREDENTIAL_KEYS``: rows, and answers kept for duplicates of a call."""

from dataclasses import dataclass

import redis

from catalog.rotation import rotate_credentials
from common.errors import Unavailable
from common.sealing import is_under_first_key
from consumption.kept_answers import NAMES
from metering import valkey


@dataclass(frozen=True, slots=True)
class Retirement:
    """See ``Rotation`` for rows. ``kept_answers``: those not under the first key; the last expires in 24 hours.

    ``older_keys_may_go``: said by a run alone that found all under the first key, since a process that was not yet
    restarted with it goes on sealing under another.
    """

    rotated: int
    unreadable: int
    kept_answers: int
    older_keys_may_go: bool


def prepare_retirement() -> Retirement:
    """Seal all rows under the first key, and look for what is left. Raises ``Unavailable`` where Valkey is away."""
    rows = rotate_credentials()
    try:
        answers = _answers_under_older_keys()
    except redis.RedisError as error:
        raise Unavailable("Rows are sealed again; Valkey does not say which answers are not") from error
    return Retirement(rows.rotated, rows.unreadable, answers, rows.found_none and not answers)


def _answers_under_older_keys() -> int:
    client = valkey.connect()
    try:
        found = (client.get(name) for name in client.scan_iter(match=NAMES, count=1000))
        return sum(isinstance(sealed, bytes) and not is_under_first_key(sealed) for sealed in found)
    finally:
        client.close()
