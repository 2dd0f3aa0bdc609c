"""Services, prices, tiers and entitlements in the admin."""

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from audit.audited_admin import AuditedAdmin, ReadOnlyAdmin, actor_of
from audit.trail import address_of
from catalog.credentials import validate_credential
from catalog.errors import NotASecondPerson
from catalog.models import Endpoint, Entitlement, PriceVersion, Service, Tier
from catalog.price_page import PricePage
from catalog.pricing import PARTS
from catalog.pricing_words import in_words
from catalog.publishing import (
    PricingDecoder,
    approve_price,
    change_service,
    publish_service,
    refuse_price,
)
from catalog.validators import validate_pricing
from common.sealing import Unsealable

PRICING_HELP = (
    'One of {"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"}, '
    '{"model": "per_token", "rates": {"prompt": "3", "completion": "15"}, "unit": 1000000, "currency": "USD"} '
    f"({', '.join(PARTS)} may be named too; unit: 1, 1000 or 1000000 tokens), "
    '{"model": "per_request", "rate_per_request": "0.01", "currency": "USD"}, '
    '{"model": "subscription", "fee_per_month": "20", "included": 1000000, "rate_per_token": "0.0001", '
    '"currency": "USD"} (without a rate everything is included). Any may say "minimum_per_month". A rate may have '
    'steps, [{"up_to": 1000000, "rate": "3"}, {"rate": "2"}], with "tiers": "graduated" or "volume". '
    "A change becomes a new price version and holds from now on."
)


def limit_in_words(limit: int | None) -> str:
    return "unlimited" if limit is None else f"{limit:,}"


def approval_in_words(version: PriceVersion) -> str:
    by = version.proposed_by or "nobody in particular"
    if version.approved_at is None:
        return f"entered by {by}, waits for somebody else's approval"
    if version.approved_by == version.proposed_by:
        return f"entered by {by}"
    return f"entered by {by}, approved by {version.approved_by}"


LIMITS = (("requests_per_second", "concurrent_requests"), ("tokens_per_minute", "tokens_per_month"))
BUDGET: Any = (
    "Budget of one consumer at one service",
    {"fields": (("budget_amount", "budget_currency", "budget_period"), "budget_soft")},
)


@admin.register(Tier)
class TierAdmin(AuditedAdmin):
    list_display = ("name", "rank", "requests", "tokens")
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": (("name", "rank"), *LIMITS)}),
        BUDGET,
    )

    @admin.display(description="requests per second", ordering="requests_per_second")
    def requests(self, tier: Tier) -> str:
        return limit_in_words(tier.requests_per_second)

    @admin.display(description="tokens per month", ordering="tokens_per_month")
    def tokens(self, tier: Tier) -> str:
        return limit_in_words(tier.tokens_per_month)

    def get_readonly_fields(self, request: HttpRequest, obj: Tier | None = None) -> tuple[str, ...]:
        return () if obj is None else ("name",)

    def has_delete_permission(self, request: HttpRequest, obj: Tier | None = None) -> bool:
        """Usage that was recorded at a tier names it for ever."""
        return False


class PriceVersionInline(admin.TabularInline):  # type: ignore[type-arg] # generic in the stubs alone
    model = PriceVersion
    fields = readonly_fields = ("effective_from", "price", "approval")
    ordering = ("-effective_from",)
    extra = 0
    can_delete = False
    verbose_name_plural = "price versions"

    @admin.display(description="price")
    def price(self, version: PriceVersion) -> str:
        return in_words(version.pricing)

    @admin.display(description="approval")
    def approval(self, version: PriceVersion) -> str:
        return approval_in_words(version)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EndpointForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs alone
    new_credential = forms.CharField(
        required=False,
        validators=[validate_credential],
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "size": 60}),
        help_text="Sets it, or replaces the one that is set. It is never shown again.",
    )
    remove_credential = forms.BooleanField(required=False)
    cost_pricing = forms.JSONField(
        required=False,
        decoder=PricingDecoder,
        validators=[validate_pricing],
        label="Upstream price",
        help_text=Endpoint._meta.get_field("cost_pricing").help_text,
        widget=forms.Textarea(attrs={"rows": 1, "cols": 90}),
    )

    class Meta:
        model = Endpoint
        fields = ("base_url", "protocol", "upstream_model", "order", "weight", "enabled", "cost_pricing")
        widgets = {"base_url": forms.TextInput(attrs={"size": 90})}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        given, remove = cleaned.get("new_credential"), cleaned.get("remove_credential")
        if given and remove:
            self.add_error("remove_credential", "Either a new credential or none")
        elif remove:
            self.instance.set_credential(None)
        elif given and "base_url" in cleaned:
            self.instance.base_url = cleaned["base_url"]
            self.instance.set_credential(given)
        return cleaned


class EndpointInline(admin.StackedInline):  # type: ignore[type-arg] # generic in the stubs alone
    model = Endpoint
    form = EndpointForm
    readonly_fields = ("credential_state",)
    extra = 0
    verbose_name_plural = "endpoints: where there is one here, the endpoint above is not called"

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        credential = ("credential_state", "new_credential", "remove_credential")
        may_change = self.has_change_permission(request, obj)
        return (
            ("base_url", "protocol"),
            ("upstream_model", "order", "weight", "enabled"),
            "cost_pricing",
            credential if may_change else credential[:1],
        )

    @admin.display(description="credential")
    def credential_state(self, endpoint: Endpoint) -> str:
        """Whether there is one, and since when: nobody is shown which."""
        if endpoint.credential_set_at is None:
            return "not set"
        since = f"set {endpoint.credential_set_at:%Y-%m-%d %H:%M:%S}"
        try:
            endpoint.open_credential()
        except Unsealable:
            return f"{since}, but cannot be opened: this endpoint is not called until it is entered again"
        return since


class ServiceForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs alone
    pricing = forms.JSONField(
        decoder=PricingDecoder,
        help_text=PRICING_HELP,
        initial={"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"},  # a price  # nosec B105
        widget=forms.Textarea(attrs={"rows": 3, "cols": 90}),
    )
    price_from = forms.DateTimeField(
        required=False,
        label="New price holds from",
        help_text="UTC. Blank: from now on. Calls made since a moment in the past cost what they did, until reprice.",
    )
    sla = forms.JSONField(
        required=False,
        help_text='Objectives, each optional: {"latency_p95_ms": 2000, "error_rate": 0.01, "uptime": 0.999}',
        initial=dict,
        widget=forms.Textarea(attrs={"rows": 3, "cols": 90}),
    )

    class Meta:
        model = Service
        exclude = ("created_at",)
        widgets = {"endpoint": forms.TextInput(attrs={"size": 90})}

    def clean_sla(self) -> Any:
        return self.cleaned_data["sla"] or {}

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        price_from = cleaned.get("price_from")
        if price_from and not self.instance._state.adding:
            if "pricing" not in self.changed_data:
                self.add_error("price_from", "The price is not a new one")
            elif self.instance.price_versions.filter(effective_from=price_from).exists():
                self.add_error("price_from", "Another price begins at that moment")
        return cleaned


@admin.register(Service)
class ServiceAdmin(PricePage, AuditedAdmin):
    form = ServiceForm
    list_display = ("name", "version", "status", "price", "objectives", "region", "clearance")
    list_filter = ("status", "testing", "region", "clearance")
    search_fields = ("name", "endpoint", "id__exact")
    search_help_text = "Name, endpoint, or the whole id."
    readonly_fields = ("id", "created_at")
    autocomplete_fields = ("fallback",)
    inlines = (EndpointInline, PriceVersionInline)
    fieldsets = (
        (None, {"fields": (("name", "version"), ("status", "testing"))}),
        (
            "Upstream",
            {
                "fields": (
                    "endpoint",
                    "upstream_model",
                    "fallback",
                    "default_max_tokens",
                    "tokenizer",
                )
            },
        ),
        (
            "Patience",
            {
                "fields": (
                    ("deadline_seconds", "stream_deadline_seconds"),
                    ("connect_seconds", "first_byte_seconds"),
                    ("idle_seconds", "least_bytes_per_second"),
                    ("on_client_gone", "outage_mode"),
                )
            },
        ),
        ("Price and objectives", {"fields": ("pricing", "price_from", "sla")}),
        ("Policy", {"fields": (("region", "clearance"),)}),
        (None, {"fields": (("id", "created_at"),)}),
    )

    @admin.display(description="price")
    def price(self, service: Service) -> str:
        return in_words(service.pricing)

    @admin.display(description="objectives")
    def objectives(self, service: Service) -> str:
        return ", ".join(f"{name} {value}" for name, value in service.sla.items()) or "—"

    def get_inlines(self, request: HttpRequest, obj: Service | None) -> Any:
        return () if obj is None else super().get_inlines(request, obj)

    def save_model(self, request: HttpRequest, obj: Service, form: Any, change: bool) -> None:  # type: ignore[override]
        actor, address = actor_of(request), address_of(request)
        if change:
            price_from = form.cleaned_data["price_from"]
            change_service(service=obj, price_from=price_from, actor=actor, address=address)
            self._tell_of_waiting(request, obj)
            return
        fields: dict[str, Any] = {
            field: getattr(obj, field) for field in ("id", *form.cleaned_data) if field != "price_from"
        }
        fields["price_from"] = form.cleaned_data["price_from"]
        obj._state = publish_service(actor=actor, address=address, **fields)._state

    def _tell_of_waiting(self, request: HttpRequest, service: Service) -> None:
        if service.price_versions.waiting().exists():
            self.message_user(request, "A price waits until somebody else approves it.", messages.WARNING)

    def has_delete_permission(self, request: HttpRequest, obj: Service | None = None) -> bool:
        """Usage names it for ever: its status ends it."""
        return False


class WaitingFilter(admin.SimpleListFilter):
    title = "approval"
    parameter_name = "waiting"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("1", "waits")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[PriceVersion]) -> QuerySet[PriceVersion]:
        return queryset.filter(approved_at=None) if self.value() == "1" else queryset


@admin.register(PriceVersion)
class PriceVersionAdmin(ReadOnlyAdmin):
    list_display = ("service", "effective_from", "price", "approval")
    list_filter = (WaitingFilter, "effective_from")
    list_select_related = ("service",)
    search_fields = ("service__name", "id__exact", "service__id__exact")
    fields = readonly_fields = (
        "service", "effective_from", "price", "pricing_text", "approval", "approved_at", "id", "created_at",
    )  # fmt: skip
    actions = ("approve", "refuse")

    def has_approve_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("catalog.approve_priceversion")

    @admin.action(description="Approve selected prices", permissions=("approve",))
    def approve(self, request: HttpRequest, queryset: QuerySet[PriceVersion]) -> None:
        done = 0
        for version in queryset.waiting().order_by("id"):  # type: ignore[attr-defined] # generic in the stubs
            try:
                done += approve_price(
                    version_id=version.id, actor=actor_of(request), address=address_of(request)
                )
            except NotASecondPerson as refused:
                self.message_user(request, f"{version}: {refused}", messages.ERROR)
        self.message_user(request, f"{done} approved.")

    @admin.action(description="Refuse selected prices that wait", permissions=("approve",))
    def refuse(self, request: HttpRequest, queryset: QuerySet[PriceVersion]) -> None:
        done = [
            refuse_price(version_id=version.id, actor=actor_of(request), address=address_of(request))
            for version in queryset.order_by("id")
        ]
        self.message_user(request, f"{sum(done)} refused.")

    @admin.display(description="approval")
    def approval(self, version: PriceVersion) -> str:
        return approval_in_words(version)

    @admin.display(description="price")
    def price(self, version: PriceVersion) -> str:
        return in_words(version.pricing)

    @admin.display(description="pricing")
    def pricing_text(self, version: PriceVersion) -> str:
        return json.dumps(version.pricing)


@admin.register(Entitlement)
class EntitlementAdmin(AuditedAdmin):
    list_display = ("consumer", "service", "tier", "requests", "tokens")
    list_filter = ("tier", "service")
    list_select_related = ("consumer", "service", "tier")
    search_fields = ("consumer__name", "service__name", "consumer__id__exact", "service__id__exact")
    autocomplete_fields = ("consumer", "service")
    ordering = ("consumer__name", "service__name")
    fieldsets = (
        (None, {"fields": ("consumer", "service", "tier")}),
        ("Instead of what the tier says", {"fields": LIMITS}),
        BUDGET,
    )

    @admin.display(description="requests per second")
    def requests(self, entitlement: Entitlement) -> str:
        return limit_in_words(entitlement.limits.requests_per_second)

    @admin.display(description="tokens per month")
    def tokens(self, entitlement: Entitlement) -> str:
        return limit_in_words(entitlement.limits.tokens_per_month)

    def get_readonly_fields(self, request: HttpRequest, obj: Entitlement | None = None) -> tuple[str, ...]:
        """Whom and what it is about never changes; who may, and how much, does."""
        return () if obj is None else ("consumer", "service")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Entitlement]:
        found: QuerySet[Entitlement] = super().get_queryset(request)
        return found.select_related("consumer", "service", "tier")
