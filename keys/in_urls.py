"""API keys in URLs: they end up in logs, histories and referrers, so a request that carries one there is refused."""

import re
from urllib.parse import parse_qsl, unquote

from common.errors import Problem

_KEY = re.compile(r"mk_(?:live|test)_[0-9A-Za-z]")
#: What clients call a key in a query, whatever it looks like.
_NAMES = frozenset({"key", "api_key", "apikey", "api-key", "x-api-key", "access_token", "token"})
#: Where such a name can mean nothing else.
_API = ("/api/", "/v1/")


class KeyInUrl(Problem):
    code, status = "key_in_url", 400
    title = "An API key belongs in the header Authorization. One that was in a URL is no secret any more: rotate it"


def holds_key(path: str, query: str) -> bool:
    """Whether a key, or what a client takes for one, is in a path (unquoted) or a query (quoted)."""
    if _KEY.search(path):
        return True
    if not query:
        return False
    if _KEY.search(unquote(query)):
        return True
    return path.startswith(_API) and any(
        name.lower() in _NAMES for name, _ in parse_qsl(query, keep_blank_values=True)
    )
