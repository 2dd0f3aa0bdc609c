"""The console's page for the second factor, and the gate that leads to it."""

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlencode

import django_otp
import segno
from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.safestring import mark_safe
from django.views import View
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters

from accounts import second_factor
from accounts.attempts import one_code
from audit.trail import address_of
from common.errors import Problem


class SecondFactorGate:
    """Middleware: whoever is asked for a second factor and has not given it reaches nothing but the page that asks.

    After django-otp's own, which says whether this session was verified.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        user = cast(Any, request.user)
        if not user.is_authenticated or user.is_verified() or request.path in _open_paths():
            return self.get_response(request)
        if not second_factor.is_asked_of(user):
            return self.get_response(request)
        return redirect(f"{reverse('second-factor')}?{urlencode({'next': request.get_full_path()})}")


def _open_paths() -> tuple[str, ...]:
    return reverse("second-factor"), reverse("admin:login"), reverse("admin:logout")


@method_decorator((never_cache, sensitive_post_parameters("code")), name="dispatch")
class SecondFactorView(View):
    """Asks for a code, of the app that is set up or of the one to set up."""

    def get(self, request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect(f"{reverse('admin:login')}?{urlencode({'next': reverse('second-factor')})}")
        return self._page(request)

    def post(self, request: HttpRequest) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect("admin:login")
        user = request.user
        code = request.POST.get("code", "")[:64]
        backup = None
        try:
            with one_code(request=request, username=user.get_username()):
                if second_factor.authenticator_of(user) is None:
                    backup = second_factor.confirm(user, code, address=address_of(request))
                    device = second_factor.authenticator_of(user)
                else:
                    device = second_factor.verify(user, code, address=address_of(request))
        except Problem as problem:
            return self._page(request, problem=problem)
        # Whoever knew the session's key before knows nothing of the one that is worth more.
        request.session.cycle_key()
        django_otp.login(request, device)
        return HttpResponseRedirect(_next(request)) if backup is None else self._page(request, backup=backup)

    def _page(
        self, request: HttpRequest, *, backup: list[str] | None = None, problem: Problem | None = None
    ) -> HttpResponse:
        user = cast(Any, request.user)
        context = {
            **admin.site.each_context(request),
            "title": "Second factor",
            "problem": problem.title if problem else "",
            "wait": problem.retry_after if problem else None,
            "backup": backup,
            "next": _next(request),
            "verified": user.is_verified(),
            "is_nav_sidebar_enabled": False,
        }
        if backup is None and second_factor.authenticator_of(user) is None:
            device = second_factor.begin(user)
            # The library's own markup, of an address that is made of quoted parts.
            code = segno.make(device.address, error="m").svg_inline(scale=5, border=2)
            context |= {"secret": device.secret_text, "qr": mark_safe(code)}  # noqa: S308 - see above  # nosec B308 B703
        status = 200 if problem is None else 400 if problem.status == 401 else problem.status
        return TemplateResponse(request, "accounts/second_factor.html", context, status=status)


def _next(request: HttpRequest) -> str:
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(wanted, {request.get_host()}, require_https=request.is_secure())
    return wanted if safe else reverse("admin:index")
