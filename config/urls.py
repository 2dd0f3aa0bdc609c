"""What the gateway serves through Django. Its lane answers ``POST /consume`` before a route is looked for."""

from django.urls import URLPattern, URLResolver, include, path

from catalog.urls import routes as catalog_routes
from config.documentation import OpenApiView, SwaggerView
from consumption.reading_views import EITHER, QuotaView, UsageView

api: list[URLPattern | URLResolver] = [
    path("", include("accounts.urls")),
    path("", include("keys.urls")),
    path("", include(catalog_routes(EITHER))),
    path("quota/<uuid:service_id>", QuotaView.as_view(), name="quota"),
    path("usage/<uuid:service_id>", UsageView.as_view(), name="usage"),
    path("openapi.json", OpenApiView.as_view(), name="openapi"),
    path("docs", SwaggerView.as_view(), name="docs"),
]

urlpatterns: list[URLPattern | URLResolver] = [
    path("", include("consumption.urls")),
    path("api/v1/", include(api)),
]

handler400 = "config.handlers.bad_request"
handler404 = "config.handlers.not_found"
handler500 = "config.handlers.server_error"
