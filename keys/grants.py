"""What a key may do: its state and its consumer's rights, read from PostgreSQL in one go."""

import uuid
from dataclasses import dataclass, field
from typing import Any

from accounts.budgets import Budget
from accounts.models import Consumer, ConsumerBudget
from catalog.limits import Limits, Override
from catalog.models import Entitlement
from common import clock
from common.networks import Network, parse_network, within
from keys.errors import ScopeMissing
from keys.models import ApiKey


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one key, below those of the tier. ``0`` forbids, ``None`` is unlimited.

    Whoever counts against them does so by ``lineage``: a key and all that rotation made of it share them.
    """

    lineage: uuid.UUID
    requests_per_second: int | None = None
    tokens_per_month: int | None = None
    concurrent_requests: int | None = None
    tokens_per_minute: int | None = None
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """The state of one key.

    ``service_id``: the one service it is bound to, or None. ``tier``: what the key was issued for. ``tiers``: every
    service its consumer is entitled to, with the tier in force for this key; ``overrides``: where the entitlement sets
    limits of its own, these. ``budgets``: the consumer's, of all its keys. ``expires_at_ms``: milliseconds since
    the epoch, or None. ``networks``: where it may be used from; None: anywhere. ``testing``: it reaches the services
    marked for testing, and no others.
    """

    api_key_id: uuid.UUID
    public_id: str
    consumer_id: uuid.UUID
    residency: str
    service_id: uuid.UUID | None
    tier: str
    tiers: dict[uuid.UUID, str]
    expires_at_ms: int | None
    blocked: bool
    scopes: frozenset[str]
    networks: tuple[Network, ...] | None
    testing: bool
    limits: KeyLimits
    overrides: dict[uuid.UUID, Override] = field(default_factory=dict)
    budgets: tuple[Budget, ...] = ()
    #: What a gateway made of it for a service, by its id as text, so as not to make it anew for every call.
    remembered: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    #: The consumer's id as text: a call needs it often.
    consumer_text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "consumer_text", str(self.consumer_id))

    def usable(self, now_ms: int | None = None) -> bool:
        """Not revoked, not expired, and its consumer not suspended."""
        if self.blocked:
            return False
        return self.expires_at_ms is None or (now_ms or clock.now_ms()) < self.expires_at_ms

    def require(self, scope: str) -> None:
        """Raises ``ScopeMissing`` unless the key is for that."""
        if scope not in self.scopes:
            raise ScopeMissing()

    def admits(self, address: str) -> bool:
        """Whether a client's address lies in the key's networks."""
        return self.networks is None or within(address, self.networks)

    def tier_for(self, service_id: uuid.UUID) -> str | None:
        """The tier at which the key may call a service; None where it may not: not entitled, or bound to another."""
        if self.service_id is not None and self.service_id != service_id:
            return None
        return self.tiers.get(service_id)

    def limits_at(self, service_id: uuid.UUID, tier: Limits) -> Limits:
        """The limits of ``tier``, which is in force at a service, as the entitlement has them."""
        override = self.overrides.get(service_id)
        return tier if override is None else override.applied_to(tier)

    def reaches(self, service_id: uuid.UUID) -> bool:
        """Whether the key may call a service."""
        return self.tier_for(service_id) is not None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A grant together with what proves the key's secret."""

    grant: Grant
    key_hash: str


def hash_of(public_id: str) -> str | None:
    """The hash to prove a secret against. Alone, so that before the proof an id costs the same whether it exists."""
    return ApiKey.objects.filter(public_id=public_id).values_list("key_hash", flat=True).first()


def load(public_id: str) -> StoredKey | None:
    """Read a key's state. None where there is no such key. Three queries; never called on the hot path."""
    key = ApiKey.objects.select_related("consumer", "tier").filter(public_id=public_id).first()
    if key is None:
        return None
    entitlements = list(Entitlement.objects.filter(consumer_id=key.consumer_id).select_related("tier"))
    tiers = {each.service_id: _in_force(key, each) for each in entitlements}
    budgets = ConsumerBudget.objects.filter(consumer_id=key.consumer_id).order_by("id")
    return StoredKey(
        grant=Grant(
            api_key_id=key.id,
            public_id=key.public_id,
            consumer_id=key.consumer_id,
            residency=key.consumer.residency,
            service_id=key.service_id,
            tier=key.tier_id,
            tiers=tiers,
            overrides={
                each.service_id: Override(own, each.tier_id == tiers[each.service_id])
                for each in entitlements
                if (own := each.own_limits) != Limits()
            },
            budgets=tuple(budget.value for budget in budgets),
            expires_at_ms=None if key.expires_at is None else int(key.expires_at.timestamp() * 1000),
            blocked=key.revoked_at is not None or key.consumer.status != Consumer.Status.ACTIVE,
            scopes=frozenset(key.scopes),
            networks=None
            if key.allowed_networks is None
            else tuple(map(parse_network, key.allowed_networks)),
            testing=key.environment == ApiKey.Environment.TEST,
            limits=_limits(key),
        ),
        key_hash=key.key_hash,
    )


def _limits(key: ApiKey) -> KeyLimits:
    return KeyLimits(
        lineage=key.lineage,
        requests_per_second=key.requests_per_second,
        tokens_per_month=key.tokens_per_month,
        concurrent_requests=key.concurrent_requests,
        tokens_per_minute=key.tokens_per_minute,
        budget=key.budget,
    )


def _in_force(key: ApiKey, entitlement: Entitlement) -> str:
    """The entitlement rules; a key that is bound to the service may have been issued for less."""
    if key.service_id != entitlement.service_id:
        return entitlement.tier_id
    return min(entitlement.tier, key.tier, key=lambda tier: tier.rank).name
