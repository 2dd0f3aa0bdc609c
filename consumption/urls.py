"""Routes of the gateway that are its own. The lane answers paid calls before Django sees it."""

from django.urls import path

from consumption.transport import DIALECTS
from consumption.views import ConsumeView, DialectView, HealthView, MetricsView, ModelsView, ReadyView

urlpatterns = [
    path("api/v1/consume/<str:service_id>", ConsumeView.as_view(), name="consume"),
    *(path(route[1:], DialectView.as_view()) for route in DIALECTS),
    path("v1/models", ModelsView.as_view(), name="models"),
    # The same under the API's prefix, told of once.
    path("api/v1/health", HealthView.as_view(schema=None)),
    path("api/v1/health/ready", ReadyView.as_view(schema=None)),
    path("api/v1/metrics", MetricsView.as_view(schema=None)),
    path("health", HealthView.as_view(), name="health"),
    path("health/ready", ReadyView.as_view(), name="ready"),
    path("metrics", MetricsView.as_view(), name="metrics"),
]
