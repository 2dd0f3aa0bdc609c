"""The public keys of an OpenID provider, as one process keeps them: for five minutes.

Whoever invents tokens makes us ask once in a while and no more; while one thread asks, others do not wait for long.
"""

import logging
import threading
import time

import jwt

from accounts.errors import ProviderUnavailable
from common.errors import Malformed
from common.fetching import NotFetched, fetch
from common.parsing import strict_json

log = logging.getLogger(__name__)

#: Signatures by a private key alone: with a shared secret, a provider's public key would be the secret.
ALGORITHMS = ("RS256", "ES256", "EdDSA")
FETCH_SECONDS, MOST_BYTES = 5.0, 256 * 1024
KEPT_SECONDS = 300.0
#: An id that is not among the keys makes us ask again after so long at the earliest.
UNKNOWN_SECONDS = 60.0
#: After a provider did not answer, nobody waits for it again for so long.
PAUSE_SECONDS = 10.0
#: How long a thread waits for another that is asking.
QUEUE_SECONDS = 1.0

_NEVER = float("-inf")


class ProviderKeys:
    """The keys that are published at one address. Safe for threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asking = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._asked_at = _NEVER

    def find(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id; None where the provider has none. Raises ``ProviderUnavailable``."""
        found = self._known(key_id)
        if found is None and self._may_ask():
            self._ask_unless_another_does()
            found = self._known(key_id)
        if found is None and not self._is_fresh():
            raise ProviderUnavailable(retry_after=int(PAUSE_SECONDS))
        return found

    def _known(self, key_id: str) -> jwt.PyJWK | None:
        return self._keys.get(key_id) if self._is_fresh() else None

    def _is_fresh(self) -> bool:
        return time.monotonic() - self._fetched_at < KEPT_SECONDS

    def _may_ask(self) -> bool:
        pause = UNKNOWN_SECONDS if self._is_fresh() else PAUSE_SECONDS
        return time.monotonic() - self._asked_at >= pause

    def _ask_unless_another_does(self) -> None:
        if not self._asking.acquire(timeout=QUEUE_SECONDS):
            raise ProviderUnavailable(retry_after=1)
        try:
            if self._may_ask():
                self._ask()
        finally:
            self._asking.release()

    def _ask(self) -> None:
        try:
            self._keys = _usable(fetch(self._url, most_bytes=MOST_BYTES, seconds=FETCH_SECONDS))
            self._fetched_at = time.monotonic()
        except (NotFetched, Malformed, jwt.PyJWTError) as error:
            log.warning("the keys of an OpenID provider were not read: %s", error)
        finally:
            # The end of it counts: one that took long is not asked again at once.
            self._asked_at = time.monotonic()


def _usable(document: bytes) -> dict[str, jwt.PyJWK]:
    """By id, those that sign in one of our ways. Raises ``PyJWTError`` where there is none that can be read."""
    listed = strict_json(document)
    rows = listed.get("keys") if isinstance(listed, dict) else None
    if not isinstance(rows, list):
        raise jwt.PyJWKSetError("not a set of keys")
    # What is no key at all would be a fault of ours to the library; a key that it does not know, it leaves out.
    named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("kid"), str)]
    return {
        str(key.key_id): key
        for key in jwt.PyJWKSet(named).keys
        if key.public_key_use in {"sig", None} and key.algorithm_name in ALGORITHMS
    }
