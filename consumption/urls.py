"""Routes of the gateway that are its own. The lane answers paid calls before Django sees it."""

from django.http import HttpResponseBase
from django.urls import path
from rest_framework.request import Request

from consumption.dialect_schema import PAID
from consumption.transport import DIALECTS
from consumption.views import ConsumeView, DialectView, HealthView, MetricsView, ModelsView, ReadyView


def _described(route: str) -> type[DialectView]:
    """The view, as the API's description tells of it at this route."""

    class RouteView(DialectView):
        @PAID[route]
        async def post(self, request: Request) -> HttpResponseBase:
            return await super().post(request)

    return RouteView


urlpatterns = [
    path("api/v1/consume/<str:service_id>", ConsumeView.as_view(), name="consume"),
    *(path(route[1:], _described(route).as_view()) for route in DIALECTS),
    path("v1/models", ModelsView.as_view(), name="models"),
    # The same under the API's prefix, told of once.
    path("api/v1/health", HealthView.as_view(schema=None)),
    path("api/v1/health/ready", ReadyView.as_view(schema=None)),
    path("api/v1/metrics", MetricsView.as_view(schema=None)),
    path("health", HealthView.as_view(), name="health"),
    path("health/ready", ReadyView.as_view(), name="ready"),
    path("metrics", MetricsView.as_view(), name="metrics"),
]
