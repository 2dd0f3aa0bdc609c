"""The catalogue as a gateway holds it in memory: replaced as a whole when the database says that it changed."""

import uuid
from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass, field

from catalog.models import PriceVersion, Service, Tier
from catalog.pricing import Price, parse_pricing


@dataclass(frozen=True, slots=True)
class PricedVersion:
    """A price version and when it starts to hold, in milliseconds since the epoch."""

    id: uuid.UUID
    from_ms: int
    price: Price


@dataclass(frozen=True, slots=True)
class Offer:
    """A service as the gateway sees it. ``url`` is where chat completions are posted."""

    id: uuid.UUID
    name: str
    version: str
    url: str
    model: str
    status: str
    region: str
    clearance: int
    default_max_tokens: int
    deadline_seconds: int
    prices: tuple[PricedVersion, ...]

    @property
    def served(self) -> bool:
        return self.status in Service.SERVED

    @property
    def listed(self) -> bool:
        """Whether consumers may know of it; what is suspended is still known."""
        return self.served or self.status == Service.Status.SUSPENDED

    @property
    def deprecated(self) -> bool:
        return self.status == Service.Status.DEPRECATED

    def price_at(self, at_ms: int) -> PricedVersion | None:
        """The price that holds at a moment; None before the first."""
        position = bisect_right(self.prices, at_ms, key=lambda version: version.from_ms)
        return self.prices[position - 1] if position else None


@dataclass(frozen=True, slots=True)
class Limits:
    """A tier's limits. ``0`` forbids, ``None`` is unlimited."""

    requests_per_second: int | None
    tokens_per_month: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All offers by id, and the limits of all tiers by name."""

    offers: dict[uuid.UUID, Offer] = field(default_factory=dict)
    tiers: dict[str, Limits] = field(default_factory=dict)


def load() -> Snapshot:
    """Read the catalogue: three queries, whatever its size."""
    prices: dict[uuid.UUID, list[PricedVersion]] = defaultdict(list)
    for version in PriceVersion.objects.order_by("effective_from"):
        from_ms = int(version.effective_from.timestamp() * 1000)
        prices[version.service_id].append(PricedVersion(version.id, from_ms, parse_pricing(version.pricing)))
    return Snapshot(
        offers={service.id: _offer(service, tuple(prices[service.id])) for service in Service.objects.all()},
        tiers={
            tier.name: Limits(tier.requests_per_second, tier.tokens_per_month) for tier in Tier.objects.all()
        },
    )


def _offer(service: Service, prices: tuple[PricedVersion, ...]) -> Offer:
    return Offer(
        id=service.id,
        name=service.name,
        version=service.version,
        url=service.endpoint.rstrip("/") + "/chat/completions",
        model=service.upstream_model or service.name,
        status=service.status,
        region=service.region,
        clearance=service.clearance,
        default_max_tokens=service.default_max_tokens,
        deadline_seconds=service.deadline_seconds,
        prices=prices,
    )
