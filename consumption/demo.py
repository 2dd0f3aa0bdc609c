"""The sample marketplace of ``make run``: small, whole, and the same at every start."""

import secrets
from typing import Any

from django.db import transaction
from django.db.models import Model

from accounts.models import Consumer, Membership, User
from accounts.roles import sync_roles
from audit import trail
from audit.changes import fields_of
from catalog.entitlements import entitle
from catalog.models import Service, Tier
from catalog.publishing import change_service, publish_service
from keys.authentication import grant_of
from keys.errors import InvalidKey
from keys.issuing import issue_key, revoke_key
from keys.models import ApiKey

ACTOR = "seed_demo"
OPERATOR = "demo-operator"
MEMBER = "demo-member"
CONSUMER = "Sample Organisation"
KEY = "sample key"
TIER = "enterprise"

SERVICES: tuple[dict[str, Any], ...] = (
    {
        "name": "sample-chat",
        "version": "1.0",
        "pricing": {"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"},  # a price  # nosec B105
        "sla": {"latency_p95_ms": 2000, "error_rate": 0.01, "uptime": 0.999},
    },
    {
        "name": "sample-premium",
        "version": "1.0",
        "pricing": {"model": "per_request", "rate_per_request": "0.01", "currency": "USD"},
        "sla": {"latency_p95_ms": 1000, "error_rate": 0.01},
    },
)


@transaction.atomic
def seed(*, upstream: str, known: dict[str, Any]) -> dict[str, Any]:
    """Make what is missing, and tell all of it. ``known``: what was told the last time.

    Passwords and the key cannot be read back: those in ``known`` are told again while they are right, else there are
    new ones. ``upstream``: base URL of the sample upstream, which may have moved.
    """
    sync_roles()
    operator, operator_password = _person(
        OPERATOR, known.get("admin_password"), is_staff=True, is_superuser=True
    )
    consumer = _consumer()
    member, member_password = _person(MEMBER, known.get("consumer_password"))
    membership, joined = Membership.objects.get_or_create(
        user=member, consumer=consumer, defaults={"role": Membership.Role.OWNER}
    )
    if joined:
        _tell_of_new("membership", membership)
    services = [_service(upstream, **fields) for fields in SERVICES]
    tier = Tier.objects.get(name=TIER)
    for service in services:
        entitle(consumer=consumer, service=service, tier=tier, actor=ACTOR)
    return {
        "admin_user": operator.username,
        "admin_password": operator_password,
        "consumer_id": str(consumer.id),
        "consumer_user": member.username,
        "consumer_password": member_password,
        "api_key": _key(consumer, services[0], tier, known.get("api_key")),
        "services": [
            {"id": str(service.id), "name": service.name, "pricing": service.pricing} for service in services
        ],
    }


def _person(username: str, password: object, **flags: bool) -> tuple[User, str]:
    user, created = User.objects.get_or_create(username=username, defaults=flags)
    if created:
        _tell_of_new("user", user)
    if isinstance(password, str) and user.check_password(password):
        return user, password
    password = _new_password()
    user.set_password(password)
    user.save(update_fields=("password",))
    return user, password


def _new_password() -> str:
    while True:
        password = secrets.token_urlsafe(15)
        if (
            any(c.islower() for c in password)
            and any(c.isupper() for c in password)
            and any(map(str.isdigit, password))
        ):
            return password


def _consumer() -> Consumer:
    found = Consumer.objects.filter(name=CONSUMER).order_by("created_at").first()
    if found is not None:
        return found
    consumer = Consumer.objects.create(name=CONSUMER)
    _tell_of_new("consumer", consumer)
    return consumer


def _tell_of_new(target: str, row: Model) -> None:
    trail.record(
        actor=ACTOR,
        action=f"{target}_created",
        target_type=target,
        target_id=row.pk,
        after=fields_of(row),
    )


def _service(upstream: str, **fields: Any) -> Service:
    service = Service.objects.filter(name=fields["name"], version=fields["version"]).first()
    if service is None:
        service = publish_service(actor=ACTOR, endpoint=upstream, **fields)
    service.endpoint = upstream
    change_service(service=service, actor=ACTOR)
    service.refresh_from_db()  # so that the first telling reads as all later ones
    return service


def _key(consumer: Consumer, service: Service, tier: Tier, text: object) -> str:
    if isinstance(text, str) and _opens(text, consumer, service):
        return text
    for lost in ApiKey.objects.filter(consumer=consumer, name=KEY, revoked_at=None):
        revoke_key(key=lost, actor=ACTOR)
    _, text = issue_key(consumer=consumer, service=service, tier=tier, actor=ACTOR, name=KEY)
    return text


def _opens(text: str, consumer: Consumer, service: Service) -> bool:
    try:
        grant = grant_of(text, None)
    except InvalidKey:
        return False
    return grant.consumer_id == consumer.id and grant.reaches(service.id)
