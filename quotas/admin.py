"""Where live counters and the ledger disagreed, and letters about budgets, to look at."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from quotas.models import BudgetNotice, QuotaDrift


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in the stubs alone
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(QuotaDrift)
class QuotaDriftAdmin(ReadOnly):
    list_display = (
        "found_at",
        "consumer",
        "service",
        "month",
        "counted",
        "in_counter",
        "in_ledger",
        "healed",
    )
    list_filter = ("healed", "found_at", "month", "service")
    search_fields = ("=consumer__id", "consumer__name", "service__name")

    def get_queryset(self, request: HttpRequest) -> QuerySet[QuotaDrift]:
        # Looked up apart: a join would drop rows whose consumer is gone.
        return super().get_queryset(request).prefetch_related("consumer", "service")

    @admin.display(description="counter", ordering="counter")
    def in_counter(self, drift: QuotaDrift) -> str:
        return _told(drift, drift.counter)

    @admin.display(description="ledger", ordering="ledger")
    def in_ledger(self, drift: QuotaDrift) -> str:
        return _told(drift, drift.ledger)


def _told(drift: QuotaDrift, value: int) -> str:
    return " ".join(map(str, drift.told(value).values())) if drift.currency else str(value)


@admin.register(BudgetNotice)
class BudgetNoticeAdmin(ReadOnly):
    list_display = ("created_at", "consumer", "name", "threshold", "spent", "amount", "currency", "sent_at")
    list_filter = (("sent_at", admin.EmptyFieldListFilter), "threshold", "period", "created_at")
    list_select_related = ("consumer",)
    search_fields = ("=consumer__id", "consumer__name", "name")
