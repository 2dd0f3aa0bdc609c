"""Where live counters and the ledger disagreed, and letters about budgets, to look at."""

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from audit.audited_admin import ReadOnlyAdmin
from quotas.models import BudgetNotice, QuotaDrift


@admin.register(QuotaDrift)
class QuotaDriftAdmin(ReadOnlyAdmin):
    list_display = (
        "found_at",
        "consumer",
        "service",
        "month",
        "counted",
        "in_counter",
        "right",
        "reason",
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

    @admin.display(description="should be", ordering="ledger")
    def right(self, drift: QuotaDrift) -> str:
        return _told(drift, drift.ledger)


def _told(drift: QuotaDrift, value: int) -> str:
    return " ".join(map(str, drift.told(value).values())) if drift.currency else str(value)


@admin.register(BudgetNotice)
class BudgetNoticeAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "consumer", "name", "threshold", "spent", "amount", "currency", "sent_at")
    list_filter = (("sent_at", admin.EmptyFieldListFilter), "threshold", "period", "created_at")
    list_select_related = ("consumer",)
    search_fields = ("=consumer__id", "consumer__name", "name")
