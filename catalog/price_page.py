"""The page *New price* of a service in the console: fields instead of JSON, read in words before it is published."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from audit.audited_admin import actor_of
from audit.trail import address_of
from catalog.models import Service
from catalog.price_form import PriceForm, entered
from catalog.pricing_words import in_words
from catalog.publishing import change_price


class PricePage(admin.ModelAdmin):  # type: ignore[type-arg] # generic in the stubs alone
    """Of the services' admin."""

    change_form_template = "catalog/service.html"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.price_view)
        return [path("<uuid:object_id>/price/", view, name="catalog_service_price"), *super().get_urls()]

    def price_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not self.has_change_permission(request):
            raise PermissionDenied
        service = self.get_object(request, object_id)
        if service is None:
            raise Http404
        form = PriceForm(request.POST or None, initial=entered(service.pricing) or {})
        is_price = form.is_valid()
        if is_price and "publish" in request.POST and self._publish(request, service, form):
            return HttpResponseRedirect(reverse("admin:catalog_service_change", args=[service.pk]))
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": service,
            "title": "New price",
            "form": form,
            "now": in_words(service.pricing),
            "is_sayable": entered(service.pricing) is not None,
            "words": in_words(form.pricing()) if is_price else "",
        }
        status = 400 if form.is_bound and form.errors else 200
        return TemplateResponse(request, "catalog/new_price.html", context, status=status)

    def _publish(self, request: HttpRequest, service: Service, form: PriceForm) -> bool:
        try:
            version = change_price(
                service=service,
                pricing=form.pricing(),
                effective_from=form.cleaned_data["price_from"],
                actor=actor_of(request),
                address=address_of(request),
            )
        except IntegrityError:
            form.add_error("price_from", "Another price begins at that moment")
            return False
        if version.approved_at:
            self.message_user(request, f"{in_words(version.pricing)}: published.")
        else:
            self.message_user(request, "The price waits until somebody else approves it.", messages.WARNING)
        return True
