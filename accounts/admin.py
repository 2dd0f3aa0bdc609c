"""People, roles and consumers in the admin."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse

from accounts import second_factor, sign_ins
from accounts.models import Consumer, ConsumerBudget, ExternalIdentity, Membership, User
from accounts.roles import permissions_of
from accounts.suspension import reactivate_consumer, suspend_consumer
from audit import trail
from audit.audited_admin import AuditedAdmin, actor_of
from audit.trail import address_of

admin.site.unregister(Group)


class MembershipInline(admin.TabularInline):  # type: ignore[type-arg] # generic in the stubs alone
    model = Membership
    autocomplete_fields = ("user", "consumer")
    extra = 0


class IdentityInline(admin.TabularInline):  # type: ignore[type-arg] # generic in the stubs alone
    model = ExternalIdentity
    extra = 0


@admin.register(User)
class PersonAdmin(AuditedAdmin, UserAdmin):  # type: ignore[type-arg] # generic in the stubs alone
    """Roles give power over the marketplace, so only who may change roles gives them, or touches who has them."""

    list_display = ("username", "email", "full_name", "roles", "is_staff", "is_active", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser", "groups")
    search_fields = ("username", "email", "first_name", "last_name")
    inlines = (MembershipInline, IdentityInline)
    actions = ("reset_second_factor",)

    def has_reset_second_factor_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("auth.change_group")

    @admin.action(
        description="Reset the second factor of selected users", permissions=("reset_second_factor",)
    )
    def reset_second_factor(self, request: HttpRequest, chosen: QuerySet[User]) -> None:
        count = sum(
            second_factor.reset(user, actor=actor_of(request), address=address_of(request))
            for user in chosen.order_by("id")
            if _may_touch(request, user)
        )
        messages.success(request, f"Reset: {count}.")

    @admin.display(description="name", ordering="last_name")
    def full_name(self, user: User) -> str:
        return user.get_full_name()

    @admin.display(description="roles")
    def roles(self, user: User) -> str:
        return ", ".join(group.name for group in user.groups.all())

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return super().get_queryset(request).prefetch_related("groups")

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> Any:
        fixed = super().get_readonly_fields(request, obj)
        if not request.user.has_perm("auth.change_group"):
            fixed = (*fixed, "is_staff", "groups", "user_permissions")
        return fixed if _is_superuser(request) else (*fixed, "is_superuser")

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_change_permission(request, obj) and _may_touch(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        return super().has_delete_permission(request, obj) and _may_touch(request, obj)

    def links_of(self, user: User) -> dict[str, Any]:
        return {
            "groups": sorted(user.groups.values_list("name", flat=True)),
            "permissions": sorted(user.user_permissions.values_list("codename", flat=True)),
        }

    def goes_along(self, user: User) -> Iterable[Membership]:
        return user.memberships.all()

    @transaction.atomic
    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        before = self.get_object(request, unquote(id))
        response: HttpResponse = super().user_change_password(request, id, form_url)
        after = self.get_object(request, unquote(id))
        if before and after and before.password != after.password:
            # Its sessions end by the password alone.
            sign_ins.end_all(user=after)
            trail.record(
                actor=actor_of(request),
                action="user_password_changed",
                target_type="user",
                target_id=after.pk,
                address=trail.address_of(request),
            )
        return response


def _may_touch(request: HttpRequest, user: User | None) -> bool:
    """A password set for somebody else is their power taken over."""
    if user is None or _is_superuser(request):
        return True
    return not user.is_superuser and (not user.is_staff or request.user.has_perm("auth.change_group"))


def _is_superuser(request: HttpRequest) -> bool:
    return bool(getattr(request.user, "is_superuser", False))


@admin.register(Group)
class RoleAdmin(AuditedAdmin, GroupAdmin):
    list_display = ("name", "people", "permission_count")

    @admin.display(description="people")
    def people(self, group: Group) -> int:
        return int(getattr(group, "_people", 0))

    @admin.display(description="permissions")
    def permission_count(self, group: Group) -> int:
        return int(getattr(group, "_permissions", 0))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Group]:
        found: QuerySet[Group] = super().get_queryset(request)
        return found.annotate(
            _people=Count("user", distinct=True), _permissions=Count("permissions", distinct=True)
        )

    def links_of(self, group: Group) -> dict[str, Any]:
        return {
            "permissions": permissions_of(group),
            "people": sorted(group.user_set.values_list("username", flat=True)),
        }


@admin.register(Consumer)
class ConsumerAdmin(AuditedAdmin):
    list_display = ("name", "status", "residency", "id", "created_at")
    list_filter = ("status", "residency", "created_at")
    search_fields = ("name", "id__exact")
    search_help_text = "Name, or the whole id."
    readonly_fields = ("id", "status", "created_at")
    fields = ("name", "status", "residency", "id", "created_at")
    inlines = (MembershipInline,)
    actions = ("suspend", "reactivate")

    def has_delete_permission(self, request: HttpRequest, obj: Consumer | None = None) -> bool:
        """Its usage and invoices must be kept: it is suspended instead."""
        return False

    @admin.action(description="Suspend selected consumers", permissions=("change",))
    def suspend(self, request: HttpRequest, chosen: QuerySet[Consumer]) -> None:
        count = sum(
            suspend_consumer(consumer=consumer, actor=actor_of(request), address=address_of(request))
            for consumer in chosen.order_by("id")
        )
        messages.success(request, f"Suspended: {count}. Their keys stop working within a second.")

    @admin.action(description="Reactivate selected consumers", permissions=("change",))
    def reactivate(self, request: HttpRequest, chosen: QuerySet[Consumer]) -> None:
        count = sum(
            reactivate_consumer(consumer=consumer, actor=actor_of(request), address=address_of(request))
            for consumer in chosen.order_by("id")
        )
        messages.success(request, f"Reactivated: {count}.")


@admin.register(ConsumerBudget)
class ConsumerBudgetAdmin(AuditedAdmin):
    list_display = ("consumer", "amount", "currency", "period", "soft")
    list_filter = ("currency", "period", "soft")
    list_select_related = ("consumer",)
    search_fields = ("consumer__name", "consumer__id__exact")
    autocomplete_fields = ("consumer",)

    def get_readonly_fields(self, request: HttpRequest, obj: ConsumerBudget | None = None) -> tuple[str, ...]:
        """Whose it is and what it covers never changes; how much does."""
        return () if obj is None else ("consumer", "currency", "period")


@admin.register(Membership)
class MembershipAdmin(AuditedAdmin):
    list_display = ("user", "consumer", "role")
    list_filter = ("role",)
    list_select_related = ("user", "consumer")
    search_fields = ("user__username", "user__email", "consumer__name")
    autocomplete_fields = ("user", "consumer")
