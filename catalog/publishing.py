"""Putting services and prices up for sale, each with its audit entry in the same transaction."""

import json
import uuid
from typing import Any

from django.db import transaction

from audit import trail
from audit.changes import differences, fields_of
from catalog.models import Endpoint, PriceVersion, Service


class PricingDecoder(json.JSONDecoder):
    """Reads ``0.0001`` as ``"0.0001"``: a rate that somebody typed as a number stays exact."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "parse_float": str})


@transaction.atomic
def publish_service(*, actor: str, address: str | None = None, **fields: Any) -> Service:
    """A new service with its first price. Raises ``ValidationError``."""
    service = Service.objects.publish(**fields)
    trail.record(
        actor=actor,
        action="service_created",
        target_type="service",
        target_id=service.id,
        after=fields_of(service),
        address=address,
    )
    return service


@transaction.atomic
def change_service(*, service: Service, actor: str, address: str | None = None) -> bool:
    """Save what was changed on ``service``; a new price becomes a price version. False where nothing was changed."""
    stored = Service.objects.select_for_update(no_key=True).get(id=service.id)
    before, after = differences(fields_of(stored), fields_of(service))
    if not after:
        return False
    if "pricing" in after:
        change_price(service=stored, pricing=service.pricing, actor=actor, address=address)
        del before["pricing"], after["pricing"]
    if after:
        service.save(update_fields=[*after])
        trail.record(
            actor=actor,
            action="service_changed",
            target_type="service",
            target_id=service.id,
            before=before,
            after=after,
            address=address,
        )
    return True


@transaction.atomic
def change_price(
    *, service: Service, pricing: dict[str, Any], actor: str, address: str | None = None
) -> PriceVersion:
    """A new price from now on."""
    before = service.pricing
    version = service.publish_price(pricing)
    trail.record(
        actor=actor,
        action="price_published",
        target_type="service",
        target_id=service.id,
        before={"pricing": before},
        after={
            "pricing": pricing,
            "price_version": str(version.id),
            "effective_from": version.effective_from.isoformat(),
        },
        address=address,
    )
    return version


def add_endpoint(
    *,
    service_id: uuid.UUID,
    credential: str | None = None,
    actor: str,
    address: str | None = None,
    **fields: Any,
) -> Endpoint:
    """One more endpoint of a service. Raises ``ValidationError``."""
    endpoint = Endpoint(service_id=service_id, **fields)
    endpoint.full_clean()
    endpoint.set_credential(credential)
    with transaction.atomic():
        endpoint.save(force_insert=True)
        trail.record(
            actor=actor,
            action="endpoint_created",
            target_type="endpoint",
            target_id=endpoint.id,
            after=fields_of(endpoint),
            address=address,
        )
    return endpoint
