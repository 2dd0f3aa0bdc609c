"""The ledger and what belongs to it, to look at. Only dead letters can be acted upon: by sending them again."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.options import ShowFacets
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from redis import RedisError

from audit import trail
from audit.audited_admin import ReadOnlyAdmin, actor_of
from audit.noted_action import ask_for_note, note_of
from common.ids import first_of
from common.money import plain
from common.paginators import BoundedPaginator
from metering import archived, dead_letters, explorer_page
from metering.consumers import consumers_meant, uuid_of
from metering.correction_admin import CorrectionPages
from metering.models import (
    DeadLetter,
    JournalBatch,
    JournalPosition,
    QuotaPeriod,
    ShardEpoch,
    UsageRecord,
    UsageRollup,
)


class ReadOnly(ReadOnlyAdmin):
    """Large tables that only the drain writes."""

    paginator = BoundedPaginator
    show_facets = ShowFacets.NEVER
    # What a page names is prefetched. Left to Django, every row that is asked for would be joined to all of its owners
    # before fifty are taken, and those whose owner is gone would be missing.
    list_select_related = ()


class ConsumerFilter(admin.SimpleListFilter):
    """A box for a consumer's id or name: a list of all consumers would be too long."""

    title = "consumer"
    parameter_name = "of_consumer"
    template = "metering/consumer_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]

    def has_output(self) -> bool:
        return True

    def choices(self, changelist: Any) -> Iterator[Any]:
        others = [
            (name, value)
            for name, values in changelist.filter_params.items()
            for value in values
            if name != self.parameter_name
        ]
        yield {"others": others, "parameter": self.parameter_name, "value": self.value() or ""}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        text = (self.value() or "").strip()
        return queryset.filter(consumer_id__in=consumers_meant(text)) if text else queryset


class MomentFilter(admin.DateFieldListFilter):
    """Of rows whose ids are made of their time: there is an index of ids, and none of moments alone."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any] | None:
        since, until = self._asked(self.lookup_kwarg_since), self._asked(self.lookup_kwarg_until)
        if since is not None:
            queryset = queryset.filter(id__gte=first_of(since))
        if until is not None:
            queryset = queryset.filter(id__lte=first_of(until + dt.timedelta(milliseconds=1)))
        return super().queryset(request, queryset)

    def _asked(self, lookup: str) -> dt.datetime | None:
        """The one moment that is asked for; None where there is none, or none that the filter itself will take."""
        texts: Any = self.used_parameters.get(lookup, ())
        try:
            [moment] = [self.field.to_python(text) for text in texts]
        except (ValidationError, ValueError):
            return None
        if moment is None or moment.year >= dt.MAXYEAR:
            return None
        return moment if timezone.is_aware(moment) else timezone.make_aware(moment)


@admin.register(UsageRecord)
class UsageRecordAdmin(CorrectionPages, ReadOnly):
    list_display = (
        "id", "timestamp", "consumer", "service", "status", "total_tokens", "price", "duration_ms", "kind",
        "settlement",
    )  # fmt: skip
    list_filter = (("timestamp", MomentFilter), "status", "kind", "settlement", ConsumerFilter, "service")
    # The key is made of time: the same order as by timestamp, and there is an index of it.
    ordering = ("-id",)
    sortable_by = ()
    search_fields = ("id",)
    search_help_text = "A request id, or the id of a consumer or a service."
    list_per_page = 50

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageRecord]:
        # Looked up apart: a join would drop rows whose consumer is gone.
        return super().get_queryset(request).prefetch_related("consumer", "service")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term.strip():
            return queryset, False
        id_ = uuid_of(search_term)
        if id_ is None:
            return queryset.none(), False
        by_request = queryset.filter(Q(id=id_) | Q(corrects=id_, kind=UsageRecord.Kind.CORRECTION))
        if by_request.exists():
            return by_request, False
        return queryset.filter(Q(consumer_id=id_) | Q(service_id=id_)), False

    @admin.display(description="cost")
    def price(self, record: UsageRecord) -> str:
        return f"{plain(record.cost_amount)} {record.currency}"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if away := archived.months_away():
            self.message_user(request, archived.sentence(away), messages.WARNING)
        return super().changelist_view(request, extra_context)


@admin.register(UsageRollup)
class UsageRollupAdmin(ReadOnly):
    list_display = (
        "hour", "consumer", "service", "tier", "status", "kind", "requests", "total_tokens", "price",
    )  # fmt: skip
    list_filter = ("hour", "status", ConsumerFilter, "service")
    list_per_page = 50

    change_list_template = "metering/rollups.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[UsageRollup]:
        return super().get_queryset(request).prefetch_related("consumer", "service", "tier")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.explore_view)
        return [path("explore/", view, name="metering_usagerollup_explore"), *super().get_urls()]

    def explore_view(self, request: HttpRequest) -> HttpResponse:
        return explorer_page.explore(request, self.admin_site)

    @admin.display(description="cost")
    def price(self, rollup: UsageRollup) -> str:
        return f"{plain(rollup.cost_amount)} {rollup.currency}"


@admin.register(QuotaPeriod)
class QuotaPeriodAdmin(ReadOnly):
    list_display = ("month", "consumer", "service", "used", "granted")
    list_filter = ("month", ConsumerFilter, "service")

    def get_queryset(self, request: HttpRequest) -> QuerySet[QuotaPeriod]:
        return super().get_queryset(request).prefetch_related("consumer", "service")


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly):
    list_display = ("created_at", "shard", "stream_id", "reason", "detail", "resolved_at")
    list_filter = (("resolved_at", admin.EmptyFieldListFilter), "reason", "created_at", "shard")
    search_fields = ("=stream_id", "detail")
    fields = (
        "shard", "epoch", "stream_id", "reason", "detail", "settlement", "entry_text", "created_at",
        "resolved_at",
    )  # fmt: skip
    actions = ("retry", "set_aside")

    @admin.display(description="entry")
    def entry_text(self, letter: DeadLetter) -> str:
        return bytes(letter.entry).decode("utf-8", "replace")

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("metering.change_deadletter")

    @admin.action(description="Journal again", permissions=["retry"])
    def retry(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> None:
        try:
            sent = dead_letters.retry(letters, actor=request.user.get_username())
        except RedisError:
            self.message_user(request, "Valkey does not answer; try again later.", messages.ERROR)
            return
        self.message_user(request, f"{sent} entries are in the journal again.")

    def has_set_aside_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("finance.correct_usage")

    @admin.action(description="Set aside: it stays out of the ledger", permissions=["set_aside"])
    def set_aside(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> TemplateResponse | None:
        note = note_of(request)
        if note is None:
            return ask_for_note(self, request, letters, action="set_aside", title="Set aside")
        count = dead_letters.set_aside(
            letters, note=note, actor=actor_of(request), address=trail.address_of(request)
        )
        self.message_user(request, f"{count} set aside.")
        return None


@admin.register(JournalPosition)
class JournalPositionAdmin(ReadOnly):
    list_display = ("shard", "epoch", "last_id", "batch")


@admin.register(ShardEpoch)
class ShardEpochAdmin(ReadOnly):
    list_display = ("shard", "number", "state", "changed_at")
    list_filter = ("state",)


@admin.register(JournalBatch)
class JournalBatchAdmin(ReadOnly):
    list_display = ("shard", "number", "drained_at")
    list_filter = ("shard", "drained_at")
    ordering = ("-id",)
