"""Putting services and prices up for sale, each with its audit entry in the same transaction."""

import datetime as dt
import json
import uuid
from typing import Any

from django.db import transaction

from audit import trail
from audit.changes import differences, fields_of
from catalog.errors import NotASecondPerson
from catalog.models import Endpoint, PriceVersion, Service
from common import clock


class PricingDecoder(json.JSONDecoder):
    """Reads ``0.0001`` as ``"0.0001"``: a rate that somebody typed as a number stays exact."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "parse_float": str})


@transaction.atomic
def publish_service(*, actor: str, address: str | None = None, **fields: Any) -> Service:
    """A new service with its first price. Raises ``ValidationError``."""
    service = Service.objects.publish(actor=actor, **fields)
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
def change_service(
    *, service: Service, price_from: dt.datetime | None = None, actor: str, address: str | None = None
) -> bool:
    """Save what was changed on ``service``; a new price becomes a price version. False where nothing was changed.

    ``price_from``: when it starts to hold; None: now. Raises ``ValidationError`` where another one starts then.
    """
    stored = Service.objects.select_for_update(no_key=True).get(id=service.id)
    before, after = differences(fields_of(stored), fields_of(service))
    if not after:
        return False
    if "pricing" in after:
        change_price(
            service=stored, pricing=service.pricing, effective_from=price_from, actor=actor, address=address
        )
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
    *,
    service: Service,
    pricing: dict[str, Any],
    effective_from: dt.datetime | None = None,
    actor: str,
    address: str | None = None,
) -> PriceVersion:
    """A new price from a moment on, or from now; or, where prices have to be approved, the proposal of one."""
    before = service.pricing
    version = service.publish_price(pricing, effective_from, actor=actor)
    trail.record(
        actor=actor,
        action="price_published" if version.approved_at else "price_proposed",
        target_type="service",
        target_id=service.id,
        before={"pricing": before},
        after=_told(version),
        address=address,
    )
    return version


@transaction.atomic
def approve_price(*, version_id: uuid.UUID, actor: str, address: str | None = None) -> bool:
    """A waiting price holds from its moment on, or from now where that has passed meanwhile.

    A moment before the proposal was meant, and stays. False where it does not wait any more. Raises
    ``NotASecondPerson``, and the database refuses that too.
    """
    version = PriceVersion.objects.waiting().select_for_update().filter(id=version_id).first()
    if version is None:
        return False
    if actor == version.proposed_by:
        raise NotASecondPerson
    version.approved_by, version.approved_at = actor, clock.now()
    if version.effective_from is None or version.created_at <= version.effective_from < version.approved_at:
        version.effective_from = version.approved_at
    version.save(update_fields=("approved_by", "approved_at", "effective_from"))
    Service.objects.filter(id=version.service_id).update(pricing=version.pricing)
    _tell_of(version, "price_approved", actor, address)
    return True


@transaction.atomic
def refuse_price(*, version_id: uuid.UUID, actor: str, address: str | None = None) -> bool:
    """A waiting price never holds; who entered it may take it back so. False where it does not wait any more."""
    version = PriceVersion.objects.waiting().select_for_update().filter(id=version_id).first()
    if version is None:
        return False
    _tell_of(version, "price_refused", actor, address)
    version.delete()
    return True


def _tell_of(version: PriceVersion, action: str, actor: str, address: str | None) -> None:
    trail.record(
        actor=actor,
        action=action,
        target_type="service",
        target_id=version.service_id,
        after={**_told(version), "proposed_by": version.proposed_by},
        address=address,
    )


def _told(version: PriceVersion) -> dict[str, Any]:
    begins = version.effective_from
    return {
        "pricing": version.pricing,
        "price_version": str(version.id),
        "effective_from": begins.isoformat() if begins else None,
    }


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
