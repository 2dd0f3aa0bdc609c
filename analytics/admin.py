"""Events and positions, to look at. The flush alone writes them."""

from functools import cached_property
from typing import Any, cast

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from analytics.models import AnalyticsEvent, AnalyticsPosition, SourcePosition


class BoundedPaginator(Paginator):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts up to a bound: to count millions of events takes longer than anybody reads."""

    bound = 10_000

    @cached_property
    def count(self) -> int:
        found = cast("QuerySet[AnalyticsEvent]", self.object_list)
        return found.order_by()[: self.bound].count()


class _WrittenByFlush(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AnalyticsEvent)
class AnalyticsEventAdmin(_WrittenByFlush):
    list_display = ("time", "type", "event_id", "subject")
    list_filter = ("type", "time")
    # Exact, so that the indexes serve it.
    search_fields = ("event_id__exact", "subject__exact")
    search_help_text = "The whole id of an event or of its subject"
    paginator = BoundedPaginator


@admin.register(AnalyticsPosition)
class AnalyticsPositionAdmin(_WrittenByFlush):
    list_display = ("shard", "batch")
    search_fields = ("shard__exact",)


@admin.register(SourcePosition)
class SourcePositionAdmin(_WrittenByFlush):
    list_display = ("source", "position", "passed", "lost")
    search_fields = ("source",)
