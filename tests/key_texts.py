"""Texts of keys that only somebody with the pepper could make."""

from django.conf import settings

from keys import format as key_format


def text_of(public_id: str, secret: str | None = None) -> str:
    """A text whose checksum and tag are right, for any id; its secret is random where none is given."""
    body = f"mk_live_{public_id}_{secret or key_format.mint().secret}"
    version = max(settings.KEY_PEPPERS)
    tag = key_format._BASE62[version] + key_format._mac(settings.KEY_PEPPERS[version], body.encode())
    return body + tag + key_format._checksum((body + tag).encode())
