from django.urls import URLPattern, path
from rest_framework.authentication import BaseAuthentication

from catalog.views import ServicesView, ServiceView


def routes(authentication: tuple[type[BaseAuthentication], ...]) -> list[URLPattern]:
    """Who may come in is said from above: API keys are an app that this one does not know."""
    return [
        path("services", ServicesView.as_view(authentication_classes=authentication), name="services"),
        path(
            "services/<uuid:service_id>",
            ServiceView.as_view(authentication_classes=authentication),
            name="service",
        ),
    ]
