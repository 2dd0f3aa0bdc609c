"""Incidents and violations, to look at. A check alone writes them."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from sla.models import SlaIncident, SlaViolation


class _WrittenByChecks(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(SlaIncident)
class SlaIncidentAdmin(_WrittenByChecks):
    list_display = ("service", "metric", "severity", "opened_at", "last_seen_at", "closed_at")
    list_filter = (("closed_at", admin.EmptyFieldListFilter), "severity", "metric", "opened_at", "service")
    list_select_related = ("service",)
    search_fields = ("service__name",)
    date_hierarchy = "opened_at"
    show_full_result_count = False


@admin.register(SlaViolation)
class SlaViolationAdmin(_WrittenByChecks):
    list_display = ("service", "metric", "severity", "actual", "threshold", "timestamp")
    list_filter = ("severity", "metric", "timestamp", "service")
    list_select_related = ("service",)
    search_fields = ("service__name",)
    date_hierarchy = "timestamp"
    show_full_result_count = False
