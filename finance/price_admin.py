"""The page of a price version, with a preview: what would a month have cost with this price, or with a draft of one."""

import datetime as dt
import json
import uuid
from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from catalog.admin import PriceVersionAdmin
from catalog.models import PriceVersion
from catalog.pricing_shapes import parse_pricing
from catalog.pricing_words import in_words
from catalog.publishing import PricingDecoder
from catalog.validators import validate_pricing
from common import clock
from finance.price_previews import preview
from finance.statement_pages import validate_month

#: Consumers that a preview names.
MOST_NAMED = 50


class PreviewForm(forms.Form):
    pricing = forms.JSONField(
        decoder=PricingDecoder,
        validators=[validate_pricing],
        widget=forms.Textarea(attrs={"rows": 3, "cols": 90}),
    )
    month = forms.DateField(
        input_formats=["%Y-%m"],
        widget=forms.DateInput(format="%Y-%m", attrs={"type": "month"}),
        validators=[validate_month],
    )


class PreviewedPriceVersionAdmin(PriceVersionAdmin):
    change_form_template = "finance/price_version.html"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.preview_view)
        return [path("<uuid:id>/preview/", view, name="finance_price_preview"), *super().get_urls()]

    def preview_view(self, request: HttpRequest, id: uuid.UUID) -> HttpResponse:
        if not self.has_view_permission(request) or not request.user.has_perm("metering.view_usagerollup"):
            raise PermissionDenied
        version = PriceVersion.objects.select_related("service").filter(id=id).first()
        if version is None:
            raise Http404
        form = PreviewForm(request.GET or _suggested(version))
        context: dict[str, Any] = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": version,
            "title": "What would a month have cost?",
            "form": form,
        }
        if form.is_valid():
            pricing = form.cleaned_data["pricing"]
            found = preview(
                service_id=version.service_id, price=parse_pricing(pricing), month=form.cleaned_data["month"]
            )
            context |= {"found": found, "named": found.consumers[:MOST_NAMED], "words": in_words(pricing)}
        return TemplateResponse(request, "finance/price_preview.html", context)


def _suggested(version: PriceVersion) -> dict[str, str]:
    """The price itself, and last month."""
    last = clock.month_start(clock.month_of(clock.now())) - dt.timedelta(days=1)
    return {"pricing": json.dumps(version.pricing), "month": f"{last:%Y-%m}"}
