"""On whose behalf a request is made: a person who acts for a consumer, or a consumer's own key."""

import uuid
from dataclasses import dataclass
from typing import ClassVar, cast

from rest_framework.request import Request

from accounts.errors import ConsumerNotNamed, ConsumerSuspended, ConsumerUnknown, NoMembership
from accounts.models import Consumer, Membership, User


@dataclass(frozen=True, slots=True)
class Caller:
    """What ``request.user`` is in the REST API. ``actor`` is how the audit trail names it.

    ``service_id``: the one service it is bound to; None: all that its consumer is entitled to. ``tier``: the highest
    it acts at there; None: the entitlements alone rule. ``testing``: it sees only the services marked for testing, or
    only the others; None: all of them.
    """

    consumer_id: uuid.UUID
    actor: str
    service_id: uuid.UUID | None = None
    tier: str | None = None
    testing: bool | None = None

    is_authenticated: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Member(Caller):
    """A person, with the role that they have in the consumer."""

    membership: Membership | None = None


def caller_of(request: Request) -> Caller:
    """The caller of a request that has been authenticated."""
    return cast(Caller, request.user)


def membership_of(request: Request) -> Membership:
    """The membership that acts. Only for views that take no API key."""
    return cast(Membership, cast(Member, request.user).membership)


def acting_membership(user: User, consumer_id: str | None) -> Membership:
    """The membership that a person acts under: the only one, or the one for the consumer they name.

    Raises ``NoMembership``, ``ConsumerNotNamed``, ``ConsumerUnknown`` or ``ConsumerSuspended``.
    """
    memberships = list(user.memberships.select_related("consumer", "user"))
    if consumer_id is not None:
        memberships = [m for m in memberships if m.consumer_id == _uuid(consumer_id)]
        if not memberships:
            raise ConsumerUnknown
    if not memberships:
        raise NoMembership
    if len(memberships) > 1:
        raise ConsumerNotNamed
    if memberships[0].consumer.status != Consumer.Status.ACTIVE:
        raise ConsumerSuspended
    return memberships[0]


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
