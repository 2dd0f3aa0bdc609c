"""The gateway's application: what is not for the lane, which takes its calls before they come here."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import quote

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ["PROCESS"] = "gateway"

from django.core.asgi import get_asgi_application

django = get_asgi_application()

from django.conf import settings  # noqa: E402 - Django must be set up before the apps are imported

from common import own_secrets  # noqa: E402
from consumption import exposition, metrics, runtime  # noqa: E402
from consumption.transport import is_paid  # noqa: E402
from keys.in_urls import holds_key  # noqa: E402

own_secrets.require()

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Calls that Django serves at once: its threads must never take the lane's core for long.
DJANGO_AT_ONCE = 8
_places = asyncio.Semaphore(DJANGO_AT_ONCE)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI entry."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "http":
        await _http(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    try:
        await runtime.start()
        await exposition.start(settings.WORKERS_DIR)
    except OSError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await exposition.stop()
    await runtime.stop()
    await send({"type": "lifespan.shutdown.complete"})


async def _http(scope: Scope, receive: Receive, send: Send) -> None:
    started = time.perf_counter()
    # The console's address would carry a key in the URL one hop further.
    if scope["path"].startswith("/admin") and not holds_key(
        scope["path"], scope["query_string"].decode("latin-1")
    ):
        status = await _redirect(_console_url(scope), send)
    else:
        status = await _through_django(scope, receive, send)
    metrics.answered(scope["method"], scope["path"], status, time.perf_counter() - started)


def _console_url(scope: Scope) -> bytes:
    """The same path and query at the console. The path comes unquoted, and may hold what no header can."""
    query: bytes = scope["query_string"]
    return (settings.CONSOLE_URL + quote(scope["path"])).encode() + (b"?" + query if query else b"")


async def _redirect(location: bytes, send: Send) -> int:
    headers = [(b"location", location), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 302, "headers": headers})
    await send({"type": "http.response.body", "body": b""})
    return 302


async def _through_django(scope: Scope, receive: Receive, send: Send) -> int:
    status = 500

    async def watching(message: Mapping[str, Any]) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(dict(message))

    # Probes never queue behind reports; the reference view of the lane is as bounded as the lane itself.
    if scope["path"].startswith("/health") or is_paid(scope["path"]):
        await django(dict(scope), receive, watching)
    else:
        async with _places:
            await django(dict(scope), receive, watching)
    return status
