"""Incidents and violations, to look at. A check alone writes them."""

from django.contrib import admin

from audit.audited_admin import ReadOnlyAdmin
from sla.models import SlaIncident, SlaViolation


@admin.register(SlaIncident)
class SlaIncidentAdmin(ReadOnlyAdmin):
    list_display = ("service", "metric", "severity", "opened_at", "last_seen_at", "closed_at")
    list_filter = (("closed_at", admin.EmptyFieldListFilter), "severity", "metric", "opened_at", "service")
    list_select_related = ("service",)
    search_fields = ("service__name",)
    date_hierarchy = "opened_at"


@admin.register(SlaViolation)
class SlaViolationAdmin(ReadOnlyAdmin):
    list_display = ("service", "metric", "severity", "actual", "threshold", "timestamp")
    list_filter = ("severity", "metric", "timestamp", "service")
    list_select_related = ("service",)
    search_fields = ("service__name",)
    date_hierarchy = "timestamp"
