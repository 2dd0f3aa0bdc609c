"""API keys in the admin: issued with the secret shown once, revoked, never read back."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.cache import add_never_cache_headers
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST

from audit.audited_admin import AuditedAdmin, actor_of
from audit.trail import address_of
from catalog.entitlements import lock_entitled_tier
from common import clock
from common.errors import Problem
from keys.issuing import issue_key, revoke_key
from keys.models import ApiKey


class IssueForm(forms.ModelForm):  # type: ignore[type-arg] # generic in the stubs alone
    expires_in_days = forms.IntegerField(
        required=False, min_value=1, max_value=3650, help_text="Empty: it never expires."
    )

    class Meta:
        model = ApiKey
        fields = ("consumer", "service", "tier", "name")
        help_texts = {
            "service": "Empty: every service that the consumer is entitled to.",
            "tier": "At most the tier of the entitlement; without a service, at most the lowest of them.",
        }

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if "consumer" in cleaned and "service" in cleaned and "tier" in cleaned:
            try:
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
        "state",
        "created_at",
        "expires_at",
    )
    list_filter = (StateFilter, "tier", "created_at", "service")
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
        if key.revoked_at is not None:
            return "revoked"
        return "active" if key.usable(clock.now()) else "expired"

    # -- issuing

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **options: Any) -> Any:
        if obj is None:
            options["form"] = IssueForm
        return super().get_form(request, obj, change, **options)

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("consumer", "service", "tier", "name", "expires_in_days")
        return (
            "name", "consumer", "bound_to", "tier", "state", "public_id", "last4", "created_at", "expires_at",
            "revoked_at", "metadata", "id",
        )  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> tuple[str, ...]:
        return () if obj is None else tuple(f for f in self.get_fields(request, obj) if f != "name")

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:  # type: ignore[override]
        if change:
            super().save_model(request, obj, form, change)
            return
        asked = form.cleaned_data
        key, text = issue_key(
            consumer=asked["consumer"],
            service=asked["service"],
            tier=asked["tier"],
            name=asked["name"],
            expires_in_days=asked["expires_in_days"],
            actor=actor_of(request),
            address=address_of(request),
        )
        obj.pk = key.pk
        request.issued = (key, text)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """The page itself shows the secret: a redirect would have to keep it somewhere."""
        key, text = request.issued  # type: ignore[attr-defined]
        context = {**self.admin_site.each_context(request), "opts": self.opts, "key": key, "text": text}
        response = TemplateResponse(request, "admin/keys/apikey/issued.html", context)
        add_never_cache_headers(response)
        return response

    # -- revoking

    @admin.action(description="Revoke selected API keys", permissions=("change",))
    def revoke(self, request: HttpRequest, chosen: QuerySet[ApiKey]) -> None:
        count = sum(
            revoke_key(key=key, actor=actor_of(request), address=address_of(request)) for key in chosen
        )
        messages.success(request, f"Revoked: {count}. They stop working within a second.")

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.revoke_one)
        return [path("<uuid:key_id>/revoke/", view, name="keys_apikey_revoke"), *super().get_urls()]

    @method_decorator(require_POST)
    def revoke_one(self, request: HttpRequest, key_id: Any) -> HttpResponse:
        key = get_object_or_404(ApiKey, id=key_id)
        if not self.has_change_permission(request, key):
            raise PermissionDenied
        revoke_key(key=key, actor=actor_of(request), address=address_of(request))
        messages.success(request, "Revoked. It stops working within a second.")
        return HttpResponseRedirect(reverse("admin:keys_apikey_change", args=[key.pk]))

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Usage names it for ever: it is revoked instead."""
        return False
