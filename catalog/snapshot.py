"""The catalogue as a gateway holds it in memory: replaced as a whole when the database says that it changed."""

import logging
import uuid
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from catalog.limits import Limits
from catalog.models import Endpoint as StoredEndpoint
from catalog.models import PriceVersion, Service, Tier
from catalog.pricing import Price
from catalog.pricing_shapes import parse_pricing
from common.sealing import Unsealable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PricedVersion:
    """A price version and when it starts to hold, in milliseconds since the epoch."""

    id: uuid.UUID
    from_ms: int
    price: Price


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calls may go. ``base_url`` is what a client of its ``protocol`` would be given, ``model`` what it knows.

    ``credential`` is for the origin of ``base_url`` and nobody else; None: none is sent.
    """

    id: uuid.UUID
    base_url: str
    protocol: str
    model: str
    weight: int
    order: int
    credential: str | None = field(default=None, repr=False)
    #: What calls cost us there, where that is known.
    cost: Price | None = field(default=None, compare=False)
    #: The id as text: a call needs it often.
    text: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", str(self.id))


@dataclass(frozen=True, slots=True)
class Offer:
    """A service as the gateway sees it. ``base_url`` is what an OpenAI client would be given.

    ``endpoints``: those that may be called, by order; none where every one is disabled or unusable. ``fallback_id``:
    the service that then serves, at the price of this one. ``first_byte_seconds`` and ``least_bytes_per_second``
    bound nothing where they are None. ``tokenizer``: empty where the model's name decides.
    """

    id: uuid.UUID
    name: str
    version: str
    base_url: str
    model: str
    status: str
    region: str
    clearance: int
    default_max_tokens: int
    deadline_seconds: int
    stream_deadline_seconds: int
    connect_seconds: int
    first_byte_seconds: int | None
    idle_seconds: int
    least_bytes_per_second: int | None
    on_client_gone: str
    #: Whether it is served out of a gateway's share while Valkey is away.
    local: bool
    tokenizer: str
    fallback_id: uuid.UUID | None
    testing: bool
    endpoints: tuple[Endpoint, ...]
    prices: tuple[PricedVersion, ...]
    #: What a call needs often: the id as text, and what its status means.
    text: str = field(init=False)
    served: bool = field(init=False)
    deprecated: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", str(self.id))
        object.__setattr__(self, "served", self.status in Service.SERVED)
        object.__setattr__(self, "deprecated", self.status == Service.Status.DEPRECATED)

    @property
    def listed(self) -> bool:
        """Whether consumers may know of it; what is suspended is still known."""
        return self.served or self.status == Service.Status.SUSPENDED

    def price_at(self, at_ms: int) -> PricedVersion | None:
        """The price that holds at a moment; None before the first."""
        # Nearly always the last one: few are known before they hold.
        if self.prices and self.prices[-1].from_ms <= at_ms:
            return self.prices[-1]
        position = bisect_right(self.prices, at_ms, key=lambda version: version.from_ms)
        return self.prices[position - 1] if position else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All offers by id and by name, and the limits of all tiers by name.

    A name means what the caller's key can reach: ``testing_names`` are those of test keys.
    """

    offers: dict[uuid.UUID, Offer] = field(default_factory=dict)
    tiers: dict[str, Limits] = field(default_factory=dict)
    names: dict[str, Offer] = field(default_factory=dict)
    testing_names: dict[str, Offer] = field(default_factory=dict)

    def names_for(self, testing: bool) -> dict[str, Offer]:
        """What a test key, or a live one, calls the offers."""
        return self.testing_names if testing else self.names

    def find(self, service: str, *, testing: bool = False) -> Offer | None:
        """The offer of an id, of ``name@version``, or of ``name``: then its newest served version."""
        named = self.names_for(testing).get(service)
        if named is not None:
            return named
        try:
            return self.offers.get(uuid.UUID(service))
        except ValueError:
            return None


def load() -> Snapshot:
    """Read the catalogue: four queries, whatever its size."""
    prices = _prices()
    stored: dict[uuid.UUID, list[StoredEndpoint]] = defaultdict(list)
    for endpoint in StoredEndpoint.objects.order_by("order", "id"):
        stored[endpoint.service_id].append(endpoint)
    offers = {
        service.id: _offer(service, _endpoints(service, stored[service.id]), prices.get(service.id, ()))
        for service in Service.objects.order_by("created_at")
    }
    return Snapshot(
        offers=offers,
        names=_by_name(offers.values(), testing=False),
        testing_names=_by_name(offers.values(), testing=True),
        tiers={tier.name: tier.own_limits for tier in Tier.objects.all()},
    )


def _prices() -> dict[uuid.UUID, tuple[PricedVersion, ...]]:
    """By service. One of whose prices cannot be read has none: it is not served at a price that may not hold."""
    found: dict[uuid.UUID, list[PricedVersion]] = defaultdict(list)
    unreadable: set[uuid.UUID] = set()
    for version in PriceVersion.objects.approved().order_by("effective_from"):
        try:
            price = parse_pricing(version.pricing)
        except ValueError as error:
            log.error("service %s is not served: its price %s: %s", version.service_id, version.id, error)
            unreadable.add(version.service_id)
            continue
        from_ms = int(version.begins.timestamp() * 1000)
        found[version.service_id].append(PricedVersion(version.id, from_ms, price))
    return {service: tuple(versions) for service, versions in found.items() if service not in unreadable}


def _by_name(offers: Iterable[Offer], *, testing: bool) -> dict[str, Offer]:
    """Later offers take the plain name over, as long as they are served; those of the other kind never do."""
    names: dict[str, Offer] = {}
    for offer in sorted(offers, key=lambda offer: offer.testing == testing):
        if offer.testing == testing and offer.name in names and names[offer.name].testing != testing:
            del names[offer.name]
        names[f"{offer.name}@{offer.version}"] = offer
        if offer.served or offer.name not in names:
            names[offer.name] = offer
    return names


def _endpoints(service: Service, stored: list[StoredEndpoint]) -> tuple[Endpoint, ...]:
    """The rows rule, disabled ones too: the service's own endpoint stands in only where there is none."""
    if not stored:
        base_url, model = service.endpoint.rstrip("/"), service.upstream_model or service.name
        return (
            Endpoint(service.id, base_url, StoredEndpoint.Protocol.OPENAI.value, model, weight=1, order=0),
        )
    found = (_endpoint(service, endpoint) for endpoint in stored if endpoint.enabled)
    return tuple(endpoint for endpoint in found if endpoint is not None)


def _endpoint(service: Service, stored: StoredEndpoint) -> Endpoint | None:
    """None where its credential cannot be sent: without it the call would be refused, or be somebody else's."""
    try:
        credential = stored.open_credential()
    except Unsealable as error:
        log.error(
            "endpoint %s of %s is not used: its credential is %s", stored.id, service, type(error).__name__
        )
        return None
    return Endpoint(
        id=stored.id,
        base_url=stored.base_url.rstrip("/"),
        protocol=stored.protocol,
        model=stored.upstream_model or service.upstream_model or service.name,
        weight=stored.weight,
        order=stored.order,
        credential=credential,
        cost=_cost(stored),
    )


def _cost(stored: StoredEndpoint) -> Price | None:
    try:
        return parse_pricing(stored.cost_pricing) if stored.cost_pricing else None
    except ValueError as error:
        log.error("what calls cost at endpoint %s is not known: %s", stored.id, error)
        return None


def _offer(service: Service, endpoints: tuple[Endpoint, ...], prices: tuple[PricedVersion, ...]) -> Offer:
    return Offer(
        id=service.id,
        name=service.name,
        version=service.version,
        base_url=service.endpoint.rstrip("/"),
        model=service.upstream_model or service.name,
        status=service.status,
        region=service.region,
        clearance=service.clearance,
        default_max_tokens=service.default_max_tokens,
        deadline_seconds=service.deadline_seconds,
        stream_deadline_seconds=service.stream_deadline_seconds,
        connect_seconds=service.connect_seconds,
        first_byte_seconds=service.first_byte_seconds,
        idle_seconds=service.idle_seconds,
        least_bytes_per_second=service.least_bytes_per_second,
        on_client_gone=service.on_client_gone,
        local=service.outage_mode == Service.OutageMode.LOCAL,
        tokenizer=service.tokenizer,
        fallback_id=service.fallback_id,
        testing=service.testing,
        endpoints=endpoints,
        prices=prices,
    )
