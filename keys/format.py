"""The text of an API key: ``mk_live_<id>_<secret><tag><crc>``.

========  ======================  =====================================================================
part      characters              what it is for
========  ======================  =====================================================================
id        16, base 62             public; finds the key
secret    43, base 62 (256 bits)  proves the key; only its Argon2id hash is kept
tag       1 + 16                  pepper's version, then 64 bits of HMAC-SHA-256 under it: a forged key dies
                                  in microseconds, and no store is asked
crc       8, hexadecimal          CRC-32 of all before it, for scanners and typing errors
========  ======================  =====================================================================
"""

import hmac
import secrets
import string
import zlib
from dataclasses import dataclass
from typing import Literal

from django.conf import settings

Environment = Literal["live", "test"]

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID, _SECRET, _TAG, _CRC = 16, 43, 17, 8
_SECRET_AT = len("mk_live_") + _ID + 1
_LENGTH = len("mk_live_") + _ID + 1 + _SECRET + _TAG + _CRC


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. ``text`` is shown once; of ``secret`` only a hash is kept."""

    text: str
    public_id: str
    secret: str

    @property
    def last4(self) -> str:
        return self.text[-4:]


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """A key whose form, checksum and tag are right. Whether it exists is another question."""

    environment: str
    public_id: str
    secret: str


def mint(environment: Environment = "live") -> NewKey:
    """A new random key, tagged under the newest pepper."""
    public_id = "".join(secrets.choice(_BASE62) for _ in range(_ID))
    secret = "".join(secrets.choice(_BASE62) for _ in range(_SECRET))
    body = f"mk_{environment}_{public_id}_{secret}"
    version = max(settings.KEY_PEPPERS)
    tagged = body + _BASE62[version] + _mac(settings.KEY_PEPPERS[version], body.encode())
    return NewKey(tagged + _checksum(tagged.encode()), public_id, secret)


def parse(text: str) -> ParsedKey | None:
    """The parts of a key, or None where it is mistyped, forged or no key at all."""
    if len(text) != _LENGTH or not text.isascii() or text[:3] != "mk_" or text[7] != "_":
        return None
    raw = text.encode()
    if _checksum(raw[:-_CRC]) != text[-_CRC:]:
        return None
    tag = text[-_TAG - _CRC : -_CRC]
    pepper = settings.KEY_PEPPERS.get(_BASE62.find(tag[0]))
    if pepper is None or not hmac.compare_digest(_mac(pepper, raw[: -_TAG - _CRC]), tag[1:]):
        return None
    return ParsedKey(text[3:7], public_id_of(text), text[_SECRET_AT : _SECRET_AT + _SECRET])


def public_id_of(text: str) -> str:
    """The id in the text of a key that was parsed before."""
    return text[8 : 8 + _ID]


def _mac(pepper: bytes, body: bytes) -> str:
    return hmac.digest(pepper, body, "sha256")[:8].hex()


def _checksum(tagged: bytes) -> str:
    return f"{zlib.crc32(tagged):08x}"
