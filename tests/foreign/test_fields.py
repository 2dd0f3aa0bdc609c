"""Every field of every model, sent to every write route, changes what that caller may change and nothing else."""

import datetime as dt
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.apps import apps
from django.contrib.postgres.fields import ArrayField
from django.db import models, transaction
from rest_framework.test import APIClient

from accounts.models import Membership, User
from accounts.sign_ins import begin
from keys.models import ApiKey
from tests import factories
from tests.api import anonymous, signed_in, with_key
from tests.foreign.routes import every_route
from tests.foreign.rows import Rows, changes, every_row
from tests.foreign.world import Other
from tests.keys import test_leaks

pytestmark = [pytest.mark.django_db, pytest.mark.urls("config.urls")]

KEYS, KEY, ROTATE = "/api/v1/keys", "/api/v1/keys/<uuid:key_id>", "/api/v1/keys/<uuid:key_id>/rotate"
TOKEN, REFRESH, REPORT = "/api/v1/token", "/api/v1/token/refresh", "/api/v1/secret-scanning"
COUNTED_LIMITS = ("requests_per_second", "concurrent_requests", "tokens_per_minute", "tokens_per_month")
#: What may be said of a key that is there, and of a new one: fields, and the columns of ``api_keys`` that they set.
OF_A_KEY = {
    **{name: name for name in ("name", "scopes", "allowed_networks", "metadata")},
    **{f"limits.{name}": name for name in COUNTED_LIMITS},
}
OF_A_NEW_KEY = {**OF_A_KEY, "service_id": "service_id", "tier": "tier_id", "environment": "environment"}
#: Of a new key, what no two of them share.
OWN_OF_EACH = {"id", "public_id", "key_hash", "last4", "lineage", "created_at"}
#: What a route changes when it does what it is for: tables and columns.
EFFECTS = {
    KEYS: {("api_keys", "*"), ("audit_entries", "*")},
    KEY: {("audit_entries", "*")},
    ROTATE: {("api_keys", "*"), ("api_keys", "expires_at"), ("audit_entries", "*")},
    TOKEN: {("sign_ins", "*"), ("users", "last_login")},
    REFRESH: {("sign_ins", "refresh_id"), ("sign_ins", "renewed_at")},
    REPORT: set(),
}
#: A refused sign-in is counted.
COUNTED = ("axes_",)

Field = tuple[str, Any]


def every_field(*, of: tuple[type[models.Model], ...] = ()) -> list[Field]:
    """Names (``owner`` and ``owner_id`` both) with a value that would give somebody something, each once."""
    found: dict[tuple[str, str], Field] = {}
    for model in of or apps.get_models():
        for column in model._meta.concrete_fields:
            value = _coveted(column)
            for name in {column.name, column.attname, column.column}:
                found[name, json.dumps(value)] = (name, value)
    return list(found.values())


def _coveted(column: Any) -> Any:
    """A value that the column would take. Of a related row: the last one there is, the other consumer's."""
    if column.is_relation:
        last = column.related_model._base_manager.order_by("pk").values_list("pk", flat=True).last()
        return last if isinstance(last, int) else str(last)
    if isinstance(column, ArrayField):
        return [_coveted(column.base_field)]
    if column.choices:
        last = list(column.choices)[-1][0]
        return last if isinstance(last, int) else str(last)
    by_kind: list[tuple[Any, Any]] = [
        (models.BooleanField, True),
        (models.DecimalField, "999.5"),
        (models.FloatField, 999.5),
        (models.IntegerField, 999),
        (models.DateTimeField, (dt.datetime(2999, 1, 1, tzinfo=dt.UTC)).isoformat()),
        (models.DateField, "2999-01-01"),
        (models.UUIDField, str(uuid.UUID(int=7))),
        (models.JSONField, {"given": "away"}),
        (models.GenericIPAddressField, "192.0.2.1"),
        (models.BinaryField, "AAAA"),
    ]
    return next((value for kind, value in by_kind if isinstance(column, kind)), "enterprise")


@dataclass
class Write:
    """How to send a body to one route. ``may``: the fields that the caller may set there, and their columns."""

    template: str
    method: str
    base: Callable[[], dict[str, Any]]
    send: Callable[[dict[str, Any]], Any]
    may: dict[str, str] = field(default_factory=dict)

    def accepted(self, more: dict[str, Any], before: Rows) -> Rows | None:
        """The rows after a body that was accepted, which is then undone; None where it was refused."""
        body = {**self.base(), **more}
        with transaction.atomic():
            if self.send(body).status_code >= 300:
                return None
            after = every_row()
            transaction.set_rollback(True)
        assert _columns(changes(before, after)) <= EFFECTS[self.template] | {
            ("api_keys", column) for column in self.columns(more)
        }, (self.template, more)
        return after

    def columns(self, more: dict[str, Any]) -> set[str]:
        """What a body may set."""
        return {self.may[name] for name in _said(more) & self.may.keys()}


def _said(more: dict[str, Any]) -> set[str]:
    """Names of fields; of those within the limits, ``limits.name``."""
    return {*more, *(f"limits.{name}" for name in more.get("limits", ()))}


def _columns(changed: set[tuple[str, Any, str]]) -> set[tuple[str, str]]:
    return {(table, column) for table, _, column in changed}


def _made(before: Rows, after: Rows | None) -> dict[str, Any]:
    """The key that a call made, but for what is each key's own; empty where there is none."""
    new = (
        []
        if after is None
        else [row for pk, row in after["api_keys"].items() if pk not in before["api_keys"]]
    )
    return {name: value for row in new for name, value in row.items() if name not in OWN_OF_EACH}


def _check(write: Write, bodies: list[dict[str, Any]]) -> set[str]:
    """Send each; returns the names of the fields that were accepted."""
    before = every_row()
    plain = _made(before, write.accepted({}, before))
    taken = set()
    for more in bodies:
        after = write.accepted(more, before)
        made = _made(before, after)
        differing = {name for name in made if made[name] != plain[name]}
        assert differing <= write.columns(more), (write.template, more)
        if after is not None:
            taken |= _said(more)
    left = changes(before, every_row())
    assert not [each for each in left if not each[0].startswith(COUNTED)], (write.template, left)
    return taken


class World:
    """The caller's own consumer, entitled to one service at the lowest tier, with one key."""

    def __init__(self) -> None:
        self.other = Other()
        self.own = factories.make_consumer()
        factories.make_entitlement(self.own, tier="basic")
        self.key, _ = factories.make_key(self.own, every_service=True, tier="basic", scopes=["consume"])

    def writes(self, client: APIClient, *, manages: bool = False) -> list[Write]:
        """Those that a caller makes in a consumer's name."""

        def sender(method: str, path: str) -> Callable[[dict[str, Any]], Any]:
            return lambda body: getattr(client, method)(path, body, format="json")

        key = f"{KEYS}/{self.key.id}"
        return [
            Write(
                KEYS, "post", lambda: {"tier": "basic"}, sender("post", KEYS), OF_A_NEW_KEY if manages else {}
            ),
            Write(KEY, "patch", dict, sender("patch", key), OF_A_KEY if manages else {}),
            Write(ROTATE, "post", dict, sender("post", key + "/rotate")),
        ]


def open_writes(user: User) -> list[Write]:
    """Those that ask for no token."""

    def sender(path: str) -> Callable[[dict[str, Any]], Any]:
        return lambda body: anonymous().post(path, body, format="json")

    sign_in = {"username": user.username, "password": factories.PASSWORD}
    refresh = {"refresh": str(begin(user=user))}
    finding = {"token": "no-key", "type": "mine", "url": ""}
    return [
        Write(TOKEN, "post", lambda: sign_in, sender(TOKEN)),
        Write(REFRESH, "post", lambda: refresh, sender(REFRESH)),
        Write(REPORT, "post", lambda: finding, lambda body: test_leaks.report(json.dumps([body]).encode())),
    ]


@pytest.fixture
def world(settings: Any) -> World:
    settings.SECRET_SCANNING_KEYS = {"one": test_leaks.pem(test_leaks.KEY)}
    for tier in factories.TIERS:
        factories.make_tier(tier)
    return World()


def alone(fields: list[Field]) -> list[dict[str, Any]]:
    """Each field by itself, and where limits are said."""
    return [body for name, value in fields for body in ({name: value}, {"limits": {name: value}})]


def together(fields: list[Field], *, but: set[str]) -> list[dict[str, Any]]:
    """All in one body; the other way round where a name comes with two kinds of value."""
    several = ({name: value for name, value in order if name not in but} for order in (fields, fields[::-1]))
    return list(several)


def test_every_write_route_is_tried(world: World) -> None:
    tried = {(write.template, write.method) for write in world.writes(anonymous())}
    tried |= {(write.template, write.method) for write in open_writes(factories.make_user())}
    writing = {
        (route.template, method)
        for route in every_route()
        if not route.paid
        for method in route.methods
        if method in {"post", "put", "patch"}
    }
    assert tried == writing


@pytest.mark.parametrize("role", Membership.Role.values)
def test_a_member_changes_what_the_role_may(role: str, world: World) -> None:
    membership = factories.make_member(world.own, role=role)
    fields = every_field()
    # Of the two roles that manage keys one tries all by themselves, and one of the two that do not.
    singly = fields if role in {Membership.Role.OWNER, Membership.Role.VIEWER} else every_field(of=(ApiKey,))
    for write in world.writes(signed_in(membership.user), manages=membership.manages_keys):
        taken = _check(write, [*alone(singly), *together(fields, but=set())])
        if write.may:
            assert (
                {"name", "scopes", "metadata", "limits.tokens_per_month"} <= taken <= {*write.may, "limits"}
            )
        else:
            assert not taken


def test_nobody_else_changes_anything(world: World) -> None:
    fields = every_field()
    _, text = factories.make_key(world.own, every_service=True)
    staff = [factories.make_user(is_staff=True, is_superuser=True), factories.make_user()]
    for client in (anonymous(), with_key(text), *map(signed_in, staff)):
        for write in world.writes(client):
            assert not _check(write, together(fields, but=set()))


def test_signing_in_changes_the_sign_in_alone(world: World) -> None:
    """All fields are accepted there and mean nothing: those of people one by one, the others together."""
    user = factories.make_member(world.own, password=factories.PASSWORD).user
    for write in open_writes(user):
        needed = set(write.base())
        bodies = [{name: value} for name, value in every_field(of=(User, Membership)) if name not in needed]
        _check(write, [*bodies, *together(every_field(), but=needed)])
