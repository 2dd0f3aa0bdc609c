"""Events and positions, to look at. The flush alone writes them."""

from django.contrib import admin
from django.contrib.admin.options import ShowFacets

from analytics.models import AnalyticsEvent, AnalyticsPosition, SourcePosition
from audit.audited_admin import ReadOnlyAdmin
from common.paginators import BoundedPaginator


@admin.register(AnalyticsEvent)
class AnalyticsEventAdmin(ReadOnlyAdmin):
    list_display = ("time", "type", "event_id", "subject")
    list_filter = ("type", "time")
    # Exact, so that the indexes serve it.
    search_fields = ("event_id__exact", "subject__exact")
    search_help_text = "The whole id of an event or of its subject"
    paginator = BoundedPaginator
    show_facets = ShowFacets.NEVER


@admin.register(AnalyticsPosition)
class AnalyticsPositionAdmin(ReadOnlyAdmin):
    list_display = ("shard", "batch")
    search_fields = ("shard__exact",)


@admin.register(SourcePosition)
class SourcePositionAdmin(ReadOnlyAdmin):
    list_display = ("source", "position", "passed", "lost")
    search_fields = ("source",)
