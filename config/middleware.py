"""What every answer through Django gets, in the gateway and in the console."""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from whitenoise.middleware import WhiteNoiseMiddleware  # type: ignore[import-untyped]

from common.ids import uuid7

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
