"""Months in the console: which are closed, what the next one lacks, and closing it; and the gateways it waits for."""

import datetime as dt
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from audit import trail
from audit.audited_admin import ReadOnlyAdmin, actor_of
from audit.noted_action import ask_for_note, note_of
from common import clock
from finance import periods
from finance.errors import PeriodNotReady
from finance.margin_pages import MarginPages
from finance.statement_pages import YEARS, StatementPages
from metering import gateways
from metering.models import ClosedMonth, Gateway

_PERMISSION = "finance.close_month"


@admin.register(ClosedMonth)
class ClosedMonthAdmin(StatementPages, MarginPages, ReadOnlyAdmin):
    list_display = ("__str__", "closed_at", "closed_by", "records", "corrections", "tokens", "cost")
    fields = ("month", "closed_at", "closed_by", "records", "corrections", "tokens", "cost")
    change_list_template = "finance/periods.html"

    @admin.display
    def cost(self, closed: ClosedMonth) -> str:
        return ", ".join(f"{amount} {currency}" for currency, amount in closed.totals.items()) or "-"

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(_PERMISSION)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        shown = {
            "open_months": periods.open_months(),
            "this_month": clock.month_of(clock.now()),
            "may_close": self.has_close_permission(request),
        }
        return super().changelist_view(request, {**shown, **(extra_context or {})})

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.close_view)
        return [
            path("close/<int:year>-<int:month>/", view, name="metering_closedmonth_close"),
            *super().get_urls(),
        ]

    def close_view(self, request: HttpRequest, year: int, month: int) -> HttpResponse:
        """What the month still lacks, and where it lacks nothing, the question whether it is to be closed."""
        if not self.has_close_permission(request):
            raise PermissionDenied
        if year not in YEARS or not 1 <= month <= 12:
            raise Http404
        first = dt.date(year, month, 1)
        if request.method == "POST":
            return self._close(request, first)
        found = periods.conditions(first)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Close {first:%Y-%m}",
            "opts": self.opts,
            "conditions": found,
            "is_ready": all(condition.is_met for condition in found),
        }
        return TemplateResponse(request, "finance/close_month.html", context)

    def _close(self, request: HttpRequest, first: dt.date) -> HttpResponse:
        try:
            closed = periods.close(first, actor=actor_of(request), address=trail.address_of(request))
        except PeriodNotReady as error:
            self.message_user(request, f"{error.title}: {error.detail}.", messages.ERROR)
        else:
            self.message_user(request, f"{closed} is closed.", messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:metering_closedmonth_changelist"))


@admin.register(Gateway)
class GatewayAdmin(ReadOnlyAdmin):
    list_display = (
        "__str__", "state", "started_at", "seen_at", "mode", "open_calls", "spooled", "oldest_open",
        "dismissed_by", "note",
    )  # fmt: skip
    actions = ("dismiss",)

    @admin.display
    def state(self, gateway: Gateway) -> str:
        if gateway.ended_at is not None:
            return "ended"
        if gateway.dismissed_at is not None:
            return "dismissed"
        is_silent = gateway.is_silent(clock.now() - gateways.SILENT_AFTER)
        return "silent with possibly unsent usage" if is_silent else "running"

    def has_dismiss_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm(_PERMISSION)

    @admin.action(description="Expect nothing more of it", permissions=["dismiss"])
    def dismiss(self, request: HttpRequest, chosen: QuerySet[Gateway]) -> TemplateResponse | None:
        note = note_of(request)
        if note is None:
            return ask_for_note(self, request, chosen, action="dismiss", title="Expect nothing more")
        actor, address = actor_of(request), trail.address_of(request)
        ended = sum(
            gateways.dismiss(gateway.pk, note=note, actor=actor, address=address) for gateway in chosen
        )
        self.message_user(request, f"{ended} dismissed.", messages.SUCCESS if ended else messages.WARNING)
        return None
