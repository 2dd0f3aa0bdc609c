"""Where live counters and the ledger disagreed, to look at."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from quotas.models import QuotaDrift


@admin.register(QuotaDrift)
class QuotaDriftAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    list_display = ("found_at", "consumer", "service", "month", "counter", "ledger", "healed")
    list_filter = ("healed", "found_at", "month", "service")
    list_select_related = ("consumer", "service")
    search_fields = ("=consumer__id", "consumer__name", "service__name")
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
