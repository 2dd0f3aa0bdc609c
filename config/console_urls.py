"""What the console serves: the admin, and the API's documentation for whoever operates it."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, path
from django.views.generic import RedirectView

from accounts.forms import ConsoleSignInForm
from accounts.second_factor_views import SecondFactorView
from config.documentation import OpenApiView, ReferenceView

admin.site.login_form = ConsoleSignInForm
admin.site.site_header = "LLM marketplace"
admin.site.site_title = "LLM marketplace"
admin.site.index_title = "Console"
admin.site.site_url = None  # there is no other site behind the console

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", admin.site.urls),
    path("second-factor/", SecondFactorView.as_view(), name="second-factor"),
    path("docs/openapi.json", OpenApiView.as_view(), name="openapi"),
    path("docs/", ReferenceView.as_view(), name="docs"),
]
