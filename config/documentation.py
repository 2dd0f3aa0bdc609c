"""The API's description and its pages, without anything from another server."""

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer2
from drf_spectacular.settings import patched_settings
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request
from rest_framework.response import Response

from consumption.dialect_schema import PAID

#: Swagger UI sets styles from its script and draws its icons from data URLs.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class OpenApiView(SpectacularJSONAPIView):
    """OpenAPI 3.1 of the gateway, whichever process serves it; ``application/json``, so that a browser shows it."""

    renderer_classes = [OpenApiJsonRenderer2]

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return Response(document())


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document. Making it takes 0.1 s, which the gateway's core has better use for than once a visit."""
    made: dict[str, Any] = SchemaGenerator(urlconf="config.urls").get_schema(public=True)  # type: ignore[no-untyped-call]
    # Each field of ``consume`` may be left out, and the body not; nor may the bodies of the other dialects.
    for path in ("/api/v1/consume/{service_id}", *PAID):
        made["paths"][path]["post"]["requestBody"]["required"] = True
    return made


class SwaggerView(SpectacularSwaggerSplitView):
    """Swagger UI. Its script is a request of its own, so that the page needs no inline script."""

    url_name = "openapi"

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = super().dispatch(request, *args, **kwargs)
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response


class ReferenceView(SwaggerView):
    """Swagger UI to read. Calls are made at the gateway, which is another server than the console."""

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with patched_settings({"SWAGGER_UI_SETTINGS": {"deepLinking": True, "supportedSubmitMethods": []}}):
            response: Response = super().get(request, *args, **kwargs)  # type: ignore[no-untyped-call]
        return response
