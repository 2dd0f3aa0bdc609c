"""What every answer through Django gets, in the gateway and in the console."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from whitenoise.middleware import WhiteNoiseMiddleware  # type: ignore[import-untyped]

from audit import trail
from common.ids import uuid7
from config.handlers import problem_response
from consumption.answers import refusal
from consumption.call import Call
from consumption.dialects import openai
from keys.in_urls import KeyInUrl, holds_key

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-Id"

Handler = Callable[[HttpRequest], HttpResponseBase] | Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def request_id(get_response: Any) -> Handler:
    """``X-Request-Id`` on every answer. A problem document brings the one that it names."""
    if iscoroutinefunction(get_response):

        async def awaited(request: HttpRequest) -> HttpResponseBase:
            return _with_id(await get_response(request))

        return awaited

    def called(request: HttpRequest) -> HttpResponseBase:
        return _with_id(get_response(request))

    return called


def _with_id(response: HttpResponseBase) -> HttpResponseBase:
    if REQUEST_ID not in response:
        response[REQUEST_ID] = str(uuid7())
    return response


@sync_and_async_middleware
def no_key_in_url(get_response: Any) -> Handler:
    """400 for a request that carries an API key in its URL, and a warning that does not repeat it."""
    if iscoroutinefunction(get_response):

        async def awaited(request: HttpRequest) -> HttpResponseBase:
            return _key_refused(request) or await get_response(request)

        return awaited

    def called(request: HttpRequest) -> HttpResponseBase:
        return _key_refused(request) or get_response(request)

    return called


def _key_refused(request: HttpRequest) -> HttpResponse | None:
    if not holds_key(request.path, request.META.get("QUERY_STRING", "")):
        return None
    address = trail.address_of(request) or ""
    log.warning("an API key was sent in a URL, by %s", address)
    if not request.path.startswith("/v1/"):
        return problem_response(KeyInUrl())
    answer = refusal(Call(openai.CHAT, None, address), KeyInUrl())
    return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]  # whitenoise has no types
    """Static files in one piece. Under ASGI a streamed file is read whole all the same, with a warning each time."""

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        found = static_file.get_response(request.method, request.META)
        body = b""
        if found.file is not None:
            with found.file:
                body = found.file.read()
        response = HttpResponse(body, status=int(found.status))
        del response["Content-Type"]
        for name, value in found.headers:
            response[name] = value
        return response
