"""Margins in the console: revenue beside what the same calls cost at their upstreams."""

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from accounts.models import Consumer
from catalog.models import Service
from common import clock
from finance.charges import sum_of
from finance.margins import By, Margin, margins
from metering.explorer import MOST_DAYS, MOST_ROWS

_BY: dict[str, tuple[By, ...]] = {
    "service": ("service",), "consumer": ("consumer",), "both": ("service", "consumer"),
}  # fmt: skip
_MODELS: dict[str, type[Model]] = {"service": Service, "consumer": Consumer}
_DAY = forms.DateInput(attrs={"type": "date"})


class MarginForm(forms.Form):
    """UTC days, both included."""

    first = forms.DateField(label="From", widget=_DAY)
    last = forms.DateField(label="To", widget=_DAY)
    by = forms.ChoiceField(
        choices=[("service", "Service"), ("consumer", "Consumer"), ("both", "Service and consumer")]
    )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        first, last = cleaned.get("first"), cleaned.get("last")
        if first and last and not 0 <= (last - first).days < MOST_DAYS:
            raise forms.ValidationError(f"The range must have 1 to {MOST_DAYS} days.")
        if (first and first.year < 2000) or (last and last.year > 9000):
            raise forms.ValidationError("The range lies too far away.")
        return cleaned


@dataclass(frozen=True, slots=True)
class Row:
    """``percent`` of revenue, to a tenth; None where there is no revenue."""

    names: Sequence[str]
    margin: Margin

    @property
    def percent(self) -> Decimal | None:
        if self.margin.revenue <= 0:
            return None
        return (self.margin.margin * 100 / self.margin.revenue).quantize(Decimal("0.1"))

    @property
    def unknown(self) -> int:
        """Charged calls whose cost at the upstream nobody knows."""
        return max(0, self.margin.charged - self.margin.known)


class MarginPages(admin.ModelAdmin):  # type: ignore[type-arg] # generic in the stubs alone
    """A page for whoever may read usage and what it costs."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.margins_view)
        return [path("margins/", view, name="finance_margins"), *super().get_urls()]

    def margins_view(self, request: HttpRequest) -> HttpResponse:
        if not request.user.has_perm("metering.view_usagerollup"):
            raise PermissionDenied
        today = clock.now().date()
        usual = {"first": today.replace(day=1), "last": today, "by": "service"}
        form = MarginForm({**usual, **request.GET.dict()})
        context = {
            **self.admin_site.each_context(request), "title": "Margins", "opts": self.opts, "form": form,
            "most": MOST_ROWS,
        }  # fmt: skip
        if form.is_valid():
            context |= _answer(**form.cleaned_data)
        status = 200 if form.is_valid() else 400
        return TemplateResponse(request, "finance/margins.html", context, status=status)


def _answer(first: dt.date, last: dt.date, by: str) -> dict[str, Any]:
    keys = _BY[by]
    found = margins(first=first, last=last, by=keys)
    found.sort(key=lambda each: (each.currency, -each.revenue))
    shown = found[:MOST_ROWS]
    names = [_names(key, {each.key[place] for each in shown}) for place, key in enumerate(keys)]
    rows = [
        Row([named.get(id_, str(id_)) for named, id_ in zip(names, each.key, strict=True)], each)
        for each in shown
    ]
    return {"heads": [key.capitalize() for key in keys], "rows": rows, "totals": list(_totals(found))}


def _names(key: str, ids: set[Any]) -> dict[Any, str]:
    return {id_: str(row) for id_, row in _MODELS[key]._default_manager.in_bulk(ids).items()}


def _totals(found: Sequence[Margin]) -> Iterable[Row]:
    for currency, of_it in groupby(found, key=lambda each: each.currency):
        every = list(of_it)
        total = Margin(
            key=(),
            currency=currency,
            requests=sum(each.requests for each in every),
            charged=sum(each.charged for each in every),
            known=sum(each.known for each in every),
            revenue=sum_of(each.revenue for each in every),
            upstream=sum_of(each.upstream for each in every),
        )
        yield Row((), total)
