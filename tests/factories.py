"""What tests start from: plain functions, each making one valid thing and what it cannot be without."""

import datetime as dt
import itertools
from typing import Any

from argon2 import PasswordHasher
from django.db import transaction

from accounts.models import Consumer, Membership, User
from catalog.models import Endpoint, Entitlement, Service, Tier
from common import clock
from keys.format import mint
from keys.models import ApiKey, Scope

PASSWORD = "correct Horse 7 battery staple"
PER_TOKEN = {"model": "per_token", "rate_per_token": "0.0001", "currency": "USD"}
PER_REQUEST = {"model": "per_request", "rate_per_request": "0.01", "currency": "USD"}
SUBSCRIPTION = {"model": "subscription", "currency": "USD"}

#: Name → rank, requests per second, tokens per month: the contract's defaults.
TIERS: dict[str, tuple[int, int | None, int | None]] = {
    "basic": (10, 10, 100_000),
    "premium": (20, 100, 10_000_000),
    "enterprise": (30, 1_000, 1_000_000_000),
}

#: Argon2 as ever, but for what it costs. The tests of keys put ``keys.hashing``'s own in its place.
hash_secret = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash

_numbers = itertools.count(1)


def make_tier(name: str = "enterprise") -> Tier:
    """A default tier. It is made again where a test that commits has emptied the tables."""
    rank, requests, tokens = TIERS[name]
    defaults = {"rank": rank, "requests_per_second": requests, "tokens_per_month": tokens}
    return Tier.objects.get_or_create(name=name, defaults=defaults)[0]


def make_user(username: str | None = None, *, password: str | None = None, **fields: Any) -> User:
    """A person. Without ``password`` nobody can sign in as them, and no time goes into hashing one."""
    return User.objects.create_user(
        username=username or f"person-{next(_numbers)}", password=password, **fields
    )


def make_consumer(name: str | None = None, **fields: Any) -> Consumer:
    return Consumer.objects.create(name=name or f"Organisation {next(_numbers)}", **fields)


def make_member(
    consumer: Consumer | None = None,
    *,
    role: str = Membership.Role.OWNER,
    user: User | None = None,
    password: str | None = None,
) -> Membership:
    """Somebody who acts for a consumer."""
    return Membership.objects.create(
        user=user or make_user(password=password), consumer=consumer or make_consumer(), role=role
    )


def make_service(
    name: str | None = None,
    *,
    version: str = "1.0",
    endpoint: str = "http://127.0.0.1:9/v1",
    pricing: dict[str, Any] | None = None,
    price_from: dt.datetime | None = None,
    **fields: Any,
) -> Service:
    """A published service. Its price holds from ``price_from`` on: an hour ago where none is given.

    Service and price are there at one moment, as in the admin: a gateway that knew the one alone would answer 503.
    """
    service = Service(
        name=name or f"model-{next(_numbers)}",
        version=version,
        endpoint=endpoint,
        pricing=pricing or PER_TOKEN,
        **fields,
    )
    service.full_clean()
    with transaction.atomic():
        service.save(force_insert=True)
        service.publish_price(service.pricing, price_from or clock.now() - dt.timedelta(hours=1))
    return service


def make_endpoint(
    service: Service | None = None,
    *,
    base_url: str = "http://127.0.0.1:9/v1",
    credential: str | None = None,
    **fields: Any,
) -> Endpoint:
    """An endpoint of ``service`` (made where not given), valid as the admin would have it."""
    endpoint = Endpoint(service=service or make_service(), base_url=base_url, **fields)
    endpoint.full_clean()
    endpoint.set_credential(credential)
    endpoint.save(force_insert=True)
    return endpoint


def make_entitlement(
    consumer: Consumer | None = None, service: Service | None = None, tier: str = "enterprise"
) -> Entitlement:
    return Entitlement.objects.create(
        consumer=consumer or make_consumer(), service=service or make_service(), tier=make_tier(tier)
    )


def make_key(
    consumer: Consumer | None = None,
    service: Service | None = None,
    *,
    tier: str = "enterprise",
    every_service: bool = False,
    entitled: bool = True,
    **fields: Any,
) -> tuple[ApiKey, str]:
    """A key and its text. Bound to ``service`` (made where not given) unless it is for ``every_service``.

    ``entitled``: the consumer gets an entitlement for the service at the key's tier, where it has none.
    """
    consumer = consumer or make_consumer()
    if service is None and not every_service:
        service = make_service()
    if entitled and service is not None:
        Entitlement.objects.get_or_create(
            consumer=consumer, service=service, defaults={"tier": make_tier(tier)}
        )
    fields.setdefault("scopes", list(Scope.values))
    new = mint("test" if fields.get("environment") == "test" else "live")
    key = ApiKey.objects.create(
        public_id=new.public_id,
        key_hash=hash_secret(new.secret),
        last4=new.last4,
        consumer=consumer,
        service=None if every_service else service,
        tier=make_tier(tier),
        **fields,
    )
    return key, new.text
