"""Keys that were found in public: revoked at once, and their owners told.

The report has the shape of GitHub's secret scanning partner programme: a list of tokens, signed with ECDSA (P-256,
SHA-256) over the body as it came.
"""

import base64
import binascii
import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.conf import settings
from django.db import transaction

from common.errors import Malformed
from common.fetching import NotFetched, fetch
from common.parsing import strict_json
from keys import format as key_format
from keys.errors import ReportNotSigned
from keys.hashing import verify_secret
from keys.issuing import revoke_key
from keys.models import ApiKey, KeyNotice

log = logging.getLogger(__name__)

ACTOR = "secret scanning"
#: Seconds for the list of public keys, in all; bytes of it; and how long it is kept, or not asked for again.
FETCH_SECONDS, MOST_FETCHED_BYTES = 5.0, 64 * 1024
KEPT_SECONDS, PAUSE_SECONDS = 3600.0, 60.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A token that was found. ``url``: where, empty where nobody said so."""

    token: str
    type: str
    url: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a finding was a key of ours, by the hash of its text: nothing repeats a secret."""

    finding: Finding
    ours: bool

    @property
    def label(self) -> str:
        return "true_positive" if self.ours else "false_positive"

    @property
    def token_hash(self) -> str:
        """SHA-256 of the token, in Base64."""
        return base64.b64encode(hashlib.sha256(self.finding.token.encode()).digest()).decode()


def verify_signature(*, body: bytes, identifier: str, signature: str) -> None:
    """Raises ``ReportNotSigned`` unless a key that is known by ``identifier`` signed the body."""
    pem = _public_keys.find(identifier)
    if pem is None:
        raise ReportNotSigned
    try:
        key = load_pem_public_key(pem.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ReportNotSigned
        key.verify(base64.b64decode(signature, validate=True), body, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise ReportNotSigned from error


def handle(findings: Sequence[Finding], *, address: str | None) -> list[Verdict]:
    """Revoke every key of ours that is among the findings. Safe to run again."""
    return [Verdict(finding, _revoke(finding, address)) for finding in findings]


def _revoke(finding: Finding, address: str | None) -> bool:
    """Whether it was the text of a key of ours, revoked by now."""
    parsed = key_format.parse(finding.token)
    if parsed is None:
        return False
    key = ApiKey.objects.filter(public_id=parsed.public_id).first()
    if key is None or not verify_secret(key.key_hash, parsed.secret):
        return False
    found_at = "" if "mk_" in finding.url else finding.url[:500]
    with transaction.atomic():
        if revoke_key(key=key, actor=ACTOR, address=address, reason="found in public", found_at=found_at):
            KeyNotice.objects.create(api_key=key, kind=KeyNotice.Kind.LEAKED, found_at=found_at)
    return True


class PublicKeys:
    """The reporter's public keys: of the settings, else of its own list, which is kept for an hour."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fetched: dict[str, str] = {}
        self._fetched_at = self._tried_at = float("-inf")

    def find(self, identifier: str) -> str | None:
        """The PEM of a key, or None."""
        if identifier in settings.SECRET_SCANNING_KEYS:
            return str(settings.SECRET_SCANNING_KEYS[identifier])
        if not settings.SECRET_SCANNING_KEYS_URL:
            return None
        with self._lock:
            now = time.monotonic()
            if now - self._fetched_at > KEPT_SECONDS:
                self._fetched = {}
            # Anybody can name a key that is not there: the list is asked for once a minute at most.
            if identifier not in self._fetched and now - self._tried_at > PAUSE_SECONDS:
                self._tried_at = now
                self._fetch(now)
            return self._fetched.get(identifier)

    def _fetch(self, now: float) -> None:
        try:
            url = settings.SECRET_SCANNING_KEYS_URL
            listed = strict_json(fetch(url, most_bytes=MOST_FETCHED_BYTES, seconds=FETCH_SECONDS))
            self._fetched = {str(row["key_identifier"]): str(row["key"]) for row in listed["public_keys"]}
            self._fetched_at = now
        except (NotFetched, Malformed, KeyError, TypeError) as error:
            log.warning("the public keys of secret scanning were not read: %s", type(error).__name__)


_public_keys = PublicKeys()
