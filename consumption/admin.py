"""The state of every endpoint, as the gateways tell it."""

from collections.abc import Iterator
from typing import Any

import redis
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString

from audit.audited_admin import ReadOnlyAdmin
from consumption.breaker import State
from consumption.endpoint_troubles import Troubles, read_troubles
from consumption.models import ServiceUpstream
from consumption.routing import Trouble

#: So much of a gateway's name tells it from the others.
SHOWN_OF_NAME = 8


def told_to(request: HttpRequest) -> dict[str, Troubles] | None:
    """What gateways tell, read once a request; None where Valkey is away."""
    if not hasattr(request, "troubles"):
        try:
            request.troubles = read_troubles()  # type: ignore[attr-defined]
        except redis.RedisError:
            request.troubles = None  # type: ignore[attr-defined]
            messages.warning(request, "Valkey does not answer: what gateways know is not shown.")
    return request.troubles  # type: ignore[attr-defined,no-any-return]


def in_words(trouble: Trouble) -> str:
    if trouble.state is State.OPEN:
        return f"open, tried again in {trouble.seconds:.0f} s"
    if trouble.state is State.HALF_OPEN:
        return "half-open, one call at a time"
    return f"busy, called again in {trouble.seconds:.0f} s"


class TroubleFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("trouble", "In trouble")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() is None:
            return queryset
        ids = {id_ for troubles in (told_to(request) or {}).values() for id_ in troubles}
        return queryset.filter(Q(id__in=ids) | Q(endpoints__id__in=ids)).distinct()


@admin.register(ServiceUpstream)
class ServiceUpstreamAdmin(ReadOnlyAdmin):
    list_display = ("name", "version", "status", "endpoint_states")
    list_filter = (TroubleFilter, "status")
    search_fields = ("name", "endpoint", "endpoints__base_url", "id__exact")
    ordering = ("name", "version")

    @admin.display(description="endpoints, by gateway")
    def endpoint_states(self, service: ServiceUpstream) -> SafeString:
        return format_html_join("", "<div>{}: {}</div>", _states(service))

    def get_queryset(self, request: HttpRequest) -> QuerySet[ServiceUpstream]:
        found: QuerySet[ServiceUpstream] = super().get_queryset(request)
        return found.prefetch_related("endpoints")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist, told = super().get_changelist_instance(request), told_to(request)
        for service in changelist.result_list:
            service.told = told
        return changelist

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **kwargs: Any) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        return HttpResponseRedirect(reverse("admin:catalog_service_change", args=[object_id]))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm("catalog.view_service")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)


def _states(service: ServiceUpstream) -> Iterator[tuple[str, str]]:
    """Address and state of each endpoint: the rows, or where there are none the service's own."""
    told: dict[str, Troubles] | None = service.told  # type: ignore[attr-defined]
    rows = list(service.endpoints.all())
    if not rows:
        yield service.endpoint, _state(str(service.id), told)
    for row in rows:
        yield row.base_url, _state(str(row.id), told) if row.enabled else "disabled"


def _state(endpoint_id: str, told: dict[str, Troubles] | None) -> str:
    if told is None:
        return "unknown"
    found = [
        f"{in_words(troubles[endpoint_id])} (gateway {gateway[:SHOWN_OF_NAME]})"
        for gateway, troubles in told.items()
        if endpoint_id in troubles
    ]
    return "; ".join(found) or "closed"
