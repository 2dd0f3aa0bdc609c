"""Whoever may knock at the REST API, each with what they are refused whatever they ask for."""

from collections.abc import Iterator
from dataclasses import dataclass

from django.contrib.auth.models import Group
from rest_framework.test import APIClient

from accounts.models import Consumer, Membership
from accounts.roles import ROLES
from keys.models import Scope
from tests import factories
from tests.api import anonymous, signed_in, with_key

NOBODY = frozenset({(401, "credentials_missing")})
#: A view for people alone takes no key; a view for keys asks for its scope.
KEYS = NOBODY | {(403, "scope_missing")}
STRANGER = frozenset({(403, "no_membership")})


@dataclass(frozen=True, slots=True)
class Caller:
    name: str
    client: APIClient
    refusals: frozenset[tuple[int, str]] = frozenset()


def every_caller(own: Consumer) -> list[Caller]:
    """Nobody, each role of ``own``'s members, its keys by scope, each platform role as stranger and as owner."""
    return [Caller("anonymous", anonymous(), NOBODY), *_members(own), *_keys(own), *_operators(own)]


def _members(own: Consumer) -> Iterator[Caller]:
    for role in Membership.Role.values:
        yield Caller(role, signed_in(factories.make_member(own, role=role).user))


def _keys(own: Consumer) -> Iterator[Caller]:
    for scopes in ([], *([scope] for scope in Scope.values), list(Scope.values)):
        _, text = factories.make_key(own, every_service=True, scopes=scopes)
        yield Caller(f"key for {scopes}", with_key(text), KEYS)
    _, bound = factories.make_key(own)
    yield Caller("key for one service", with_key(bound), KEYS)


def _operators(own: Consumer) -> Iterator[Caller]:
    for role in ROLES:
        group = Group.objects.get_or_create(name=role)[0]
        for membership in ("no", "owner"):
            user = factories.make_user(is_staff=True, is_superuser=role == "super_admin")
            user.groups.add(group)
            if membership == "no":
                yield Caller(f"{role}, no member", signed_in(user), STRANGER)
            else:
                factories.make_member(own, user=user)
                yield Caller(f"{role}, owner", signed_in(user))
