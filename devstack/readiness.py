"""Whether something answers over HTTP."""

import http.client
import urllib.error
import urllib.request


def answers_ok(url: str, *, seconds: float = 2.0) -> bool:
    """One try; a redirect to something that answers 200 counts. `url` is one of our own."""
    # No proxy of the environment's stands between us and loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds) as response:
            return bool(response.status == http.HTTPStatus.OK)
    except (OSError, http.client.HTTPException):
        return False
