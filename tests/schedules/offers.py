"""Who buys what in a schedule."""

import secrets

from catalog.pricing_shapes import parse_pricing
from keys.models import ApiKey, Scope
from tests import factories
from tests.schedules.gateway import Buyer, Offer

PRICINGS = (
    factories.PER_TOKEN,
    factories.PER_REQUEST,
    {
        "model": "per_token", "currency": "EUR",
        "rates": {"prompt": "0.000001", "completion": "0.000004", "cached": "0.0000005"},
    },
)  # fmt: skip


def make_offers() -> list[Offer]:
    services = [factories.make_service(pricing=pricing) for pricing in PRICINGS]
    return [
        Offer(service.id, service.price_versions.get().id, parse_pricing(service.pricing))
        for service in services
    ]


def make_buyer() -> Buyer:
    """A consumer that no schedule before has seen."""
    consumer = factories.make_consumer()
    # Nobody signs in with it, and a hash that takes its time would take most of a schedule's.
    key = ApiKey.objects.create(
        public_id=secrets.token_hex(8),
        key_hash=secrets.token_hex(16),
        last4="none",
        consumer=consumer,
        tier=factories.make_tier(),
        scopes=[Scope.CONSUME],
    )
    return Buyer(consumer.id, key.id, key.lineage)
