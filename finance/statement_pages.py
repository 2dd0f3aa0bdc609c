"""Statements in the console: a month's consumers, and each one's statement as a page and as PDF."""

import datetime as dt
import uuid
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from accounts.models import Consumer
from audit import trail
from audit.audited_admin import actor_of
from common import clock
from finance.statements import Line, PricedLines, Statement, statement, summaries
from metering.consumers import consumers_meant
from metering.explorer import MOST_ROWS

#: Further away no month begins and ends.
YEARS = range(2000, 9000)


def validate_month(month: dt.date) -> None:
    if month.year not in YEARS:
        raise forms.ValidationError("The month lies too far away.")


class MonthForm(forms.Form):
    """A UTC month, and whom to look for."""

    month = forms.DateField(
        input_formats=["%Y-%m"],
        widget=forms.DateInput(format="%Y-%m", attrs={"type": "month"}),
        validators=[validate_month],
    )
    consumer = forms.CharField(
        required=False, max_length=200, widget=forms.TextInput(attrs={"placeholder": "id or name"})
    )


class StatementPages(admin.ModelAdmin):  # type: ignore[type-arg] # generic in the stubs alone
    """Pages for whoever may read usage and what it costs."""

    def get_urls(self) -> list[URLPattern]:
        one = "statements/<int:year>-<int:month>/<uuid:consumer_id>/"
        wrap = self.admin_site.admin_view
        return [
            path("statements/", wrap(self.statements_view), name="finance_statements"),
            path(one, wrap(self.statement_view), name="finance_statement"),
            path(f"{one}pdf/", wrap(self.statement_pdf_view), name="finance_statement_pdf"),
            *super().get_urls(),
        ]

    def statements_view(self, request: HttpRequest) -> HttpResponse:
        _require(request)
        usual = {"month": f"{clock.month_of(clock.now()):%Y-%m}"}
        form = MonthForm({**usual, **request.GET.dict()})
        context = {
            **self.admin_site.each_context(request), "title": "Statements", "opts": self.opts, "form": form,
            "most": MOST_ROWS,
        }  # fmt: skip
        if form.is_valid():
            month, whom = form.cleaned_data["month"], form.cleaned_data["consumer"]
            found = summaries(month, tuple(consumers_meant(whom)) if whom else None)
            context |= {"month": month, "found": found}
        status = 200 if form.is_valid() else 400
        return TemplateResponse(request, "finance/statements.html", context, status=status)

    def statement_view(
        self, request: HttpRequest, year: int, month: int, consumer_id: uuid.UUID
    ) -> HttpResponse:
        found = _asked(request, year, month, consumer_id)
        accounts = [
            (account, [(part, [(line, _rows_url(found, part, line)) for line in part.lines]) for part in account.parts])
            for account in found.accounts
        ]  # fmt: skip
        context = {
            **self.admin_site.each_context(request),
            "title": f"Statement {found.month:%Y-%m}",
            "opts": self.opts,
            "statement": found,
            "accounts": accounts,
            "explore_url": _explore_url(found),
        }
        return TemplateResponse(request, "finance/statement.html", context)

    def statement_pdf_view(
        self, request: HttpRequest, year: int, month: int, consumer_id: uuid.UUID
    ) -> HttpResponse:
        # Half a second of imports that few processes need.
        from finance import statement_pdf

        found = _asked(request, year, month, consumer_id)
        trail.record(
            actor=actor_of(request),
            action="statement.downloaded",
            target_type="consumers",
            target_id=consumer_id,
            after={"month": f"{found.month:%Y-%m}"},
            address=trail.address_of(request),
        )
        response = HttpResponse(statement_pdf.render(found), content_type="application/pdf")
        name = f"statement_{found.month:%Y-%m}_{consumer_id}.pdf"
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        return response


def _require(request: HttpRequest) -> None:
    if not request.user.has_perm("metering.view_usagerollup"):
        raise PermissionDenied


def _asked(request: HttpRequest, year: int, month: int, consumer_id: uuid.UUID) -> Statement:
    _require(request)
    if year not in YEARS or not 1 <= month <= 12:
        raise Http404
    return statement(get_object_or_404(Consumer, id=consumer_id), dt.date(year, month, 1))


def _rows_url(found: Statement, part: PricedLines, line: Line) -> str:
    """The rows of the ledger that a line is made of."""
    asked: dict[str, Any] = {
        "of_consumer": found.consumer_id,
        "service__id__exact": part.service_id,
        "price_version__id__exact": part.price_version_id,
        "kind__exact": line.kind,
        "timestamp__gte": f"{clock.month_start(found.month):%Y-%m-%d %H:%M:%S}+00:00",
        "timestamp__lt": f"{clock.month_start(clock.next_month(found.month)):%Y-%m-%d %H:%M:%S}+00:00",
    }
    return f"{reverse('admin:metering_usagerecord_changelist')}?{urlencode(asked)}"


def _explore_url(found: Statement) -> str:
    last = clock.next_month(found.month) - dt.timedelta(days=1)
    asked = {"consumer": found.consumer_id, "first": found.month, "last": last, "by": "service"}
    return f"{reverse('admin:metering_usagerollup_explore')}?{urlencode(asked)}"
