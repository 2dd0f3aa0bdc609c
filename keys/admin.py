"""API keys in the admin: issued and rotated with the secret shown once, changed, revoked, never read back."""

import datetime as dt
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.cache import add_never_cache_headers
from django.utils.decorators import method_decorator
from django.utils.html import format_html_join
from django.utils.safestring import mark_safe
from django.views.decorators.http import require_POST

from audit.audited_admin import AuditedAdmin, ReadOnlyAdmin, actor_of
from audit.trail import address_of
from catalog.entitlements import lock_entitled_tier
from common import clock
from common.errors import Problem
from keys.issuing import CHANGEABLE, change_key, check_environment, issue_key, revoke_key, rotate_key
from keys.models import ApiKey, KeyNotice, Scope

#: What operators may say of a key when they issue it, and change later.
OPTIONS = tuple(name for name in CHANGEABLE if name != "metadata")
LIMITS = OPTIONS[OPTIONS.index("requests_per_second") :]
#: What never changes of a key, and what tells of its life.
FIXED = ("consumer", "bound_to", "tier", "environment", "state", "created_at", "expires_at", "revoked_at")
ORIGIN = ("last_used_at", "told_history", "public_id", "last4", "metadata", "id")
#: Seconds that a rotated key goes on working, and how that is said.
OVERLAPS = {
    "0": "it ends at once",
    "3600": "1 hour",
    "86400": "1 day",
    "604800": "7 days",
    "2592000": "30 days",
}


class OptionsForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs alone
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        widget=forms.CheckboxSelectMultiple,
        required=False,
        initial=Scope.values,
        help_text="What is not chosen is denied.",
    )

    class Meta:
        model = ApiKey
        fields = OPTIONS

    def clean_allowed_networks(self) -> list[str] | None:
        return self.cleaned_data["allowed_networks"] or None

    def options(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in OPTIONS if name in self.cleaned_data}


class IssueForm(OptionsForm):
    expires_in_days = forms.IntegerField(
        required=False, min_value=1, max_value=3650, help_text="Empty: it never expires."
    )

    class Meta:
        model = ApiKey
        fields = ("consumer", "service", "tier", "environment", *OPTIONS)
        help_texts = {
            "service": "Empty: every service that the consumer is entitled to.",
            "tier": "At most the tier of the entitlement; without a service, at most the lowest of them.",
        }

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if {"consumer", "service", "tier", "environment"} <= set(cleaned):
            try:
                check_environment(service=cleaned["service"], environment=cleaned["environment"])
                with transaction.atomic():
                    lock_entitled_tier(
                        consumer=cleaned["consumer"], service=cleaned["service"], tier=cleaned["tier"]
                    )
            except Problem as error:
                raise ValidationError(f"{error.detail}.") from error
        return cleaned


class StateFilter(admin.SimpleListFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("active", "Active"), ("expired", "Expired"), ("revoked", "Revoked")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        now = clock.now()
        match self.value():
            case "active":
                return queryset.filter(Q(expires_at=None) | Q(expires_at__gt=now), revoked_at=None)
            case "expired":
                return queryset.filter(expires_at__lte=now, revoked_at=None)
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


@admin.register(ApiKey)
class ApiKeyAdmin(AuditedAdmin):
    list_display = (
        "shown_name",
        "consumer",
        "bound_to",
        "tier",
        "environment",
        "state",
        "created_at",
        "expires_at",
        "last_used_at",
    )
    list_filter = (StateFilter, "environment", "tier", "created_at", "service")
    list_select_related = ("consumer", "service", "tier")
    search_fields = ("name", "consumer__name", "public_id__exact", "last4__exact", "id__exact")
    search_help_text = "Name, consumer, public id, last four characters, or the whole id."
    autocomplete_fields = ("consumer", "service")
    show_full_result_count = False
    actions = ("revoke",)
    change_form_template = "admin/keys/apikey/change_form.html"

    @admin.display(description="name", ordering="name")
    def shown_name(self, key: ApiKey) -> str:
        return f"{key.name} …{key.last4}".lstrip()

    @admin.display(description="service", ordering="service__name")
    def bound_to(self, key: ApiKey) -> str:
        return "all entitled" if key.service is None else str(key.service)

    @admin.display(description="state")
    def state(self, key: ApiKey) -> str:
        return key.status

    @admin.display(description="history")
    def told_history(self, key: ApiKey) -> str:
        """The keys of its lineage, each with a way to it."""
        rows = (
            (reverse("admin:keys_apikey_change", args=[each.pk]), each.generation, each.last4, each.status)
            for each in key.history
        )
        return format_html_join(mark_safe("<br>"), '<a href="{}">{}: …{}</a> {}', rows)  # a constant  # nosec B308

    # -- issuing

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        options["form"] = IssueForm if obj is None else OptionsForm
        return super().get_form(request, obj, change, **options)

    def get_fieldsets(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        limits = ("Limits of this key alone", {"fields": LIMITS})
        use = ("scopes", "allowed_networks")
        if obj is None:
            issued = ("consumer", "service", "tier", "environment", "name", "expires_in_days", *use)
            return ((None, {"fields": issued}), limits)
        return (
            (None, {"fields": ("name", *FIXED, *use)}),
            limits,
            ("Where it comes from", {"fields": ORIGIN}),
        )

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return () if obj is None else (*FIXED, *ORIGIN)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:  # type: ignore[override]
        who: dict[str, Any] = {"actor": actor_of(request), "address": address_of(request)}
        if change:
            change_key(key=obj, changes=form.options(), **who)
            return
        asked = form.cleaned_data
        key, text = issue_key(
            consumer=asked["consumer"],
            service=asked["service"],
            tier=asked["tier"],
            environment=asked["environment"],
            expires_in_days=asked["expires_in_days"],
            options=form.options(),
            **who,
        )
        obj.pk = key.pk
        request.issued = (key, text)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The page itself shows the secret: a redirect would have to keep it somewhere."""
        return self._shown_once(request, *request.issued)  # type: ignore[attr-defined]

    def _shown_once(self, request: HttpRequest, key: ApiKey, text: str) -> HttpResponse:
        context = {**self.admin_site.each_context(request), "opts": self.opts, "key": key, "text": text}
        response = TemplateResponse(request, "admin/keys/apikey/issued.html", context)
        add_never_cache_headers(response)
        return response

    # -- rotating

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), "overlaps": OVERLAPS}
        )

    @method_decorator(require_POST)
    def rotate_one(self, request: HttpRequest, key_id: Any) -> HttpResponse:
        key = self._changeable(request, key_id)
        overlap = request.POST.get("overlap", "")
        if overlap not in OVERLAPS:
            return HttpResponseBadRequest("No such overlap")
        try:
            made, text = rotate_key(
                key=key,
                overlap=dt.timedelta(seconds=int(overlap)),
                actor=actor_of(request),
                address=address_of(request),
            )
        except Problem as error:
            messages.error(request, f"{error.detail}.")
            return HttpResponseRedirect(reverse("admin:keys_apikey_change", args=[key.pk]))
        return self._shown_once(request, made, text)

    # -- revoking

    @admin.action(description="Revoke selected API keys", permissions=("change",))
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        count = sum(
            revoke_key(key=key, actor=actor_of(request), address=address_of(request)) for key in chosen
        )
        messages.success(request, f"Revoked: {count}. They stop working within a second.")

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("<uuid:key_id>/revoke/", wrap(self.revoke_one), name="keys_apikey_revoke"),
            path("<uuid:key_id>/rotate/", wrap(self.rotate_one), name="keys_apikey_rotate"),
            *super().get_urls(),
        ]

    @method_decorator(require_POST)
    def revoke_one(self, request: HttpRequest, key_id: Any) -> HttpResponse:
        key = self._changeable(request, key_id)
        revoke_key(key=key, actor=actor_of(request), address=address_of(request))
        messages.success(request, "Revoked. It stops working within a second.")
        return HttpResponseRedirect(reverse("admin:keys_apikey_change", args=[key.pk]))

    def _changeable(self, request: HttpRequest, key_id: Any) -> ApiKey:
        key = get_object_or_404(ApiKey, id=key_id)
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        return key

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Usage names it for ever: it is revoked instead."""
        return False


@admin.register(KeyNotice)
class KeyNoticeAdmin(ReadOnlyAdmin):
    list_display = ("created_at", "api_key", "kind", "sent_at")
    list_filter = ("kind", "sent_at")
    list_select_related = ("api_key",)
    fields = readonly_fields = ("api_key", "kind", "found_at", "created_at", "attempted_at", "sent_at")
