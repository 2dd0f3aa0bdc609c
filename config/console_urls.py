"""What the console serves: the admin, and the API's documentation for whoever operates it."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path
from django.views.generic import RedirectView

from config.documentation import OpenApiView, SwaggerView

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", admin.site.urls),
    path("docs/openapi.json", OpenApiView.as_view(), name="openapi"),
    path("docs/", SwaggerView.as_view(), name="docs"),
]
