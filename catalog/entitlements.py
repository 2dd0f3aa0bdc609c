"""Who may call what, and at which tier."""

import uuid

from django.db import transaction

from accounts.models import Consumer
from audit import trail
from catalog.errors import NotEntitled, ServiceUnknown, TierTooHigh
from catalog.models import Entitlement, Service, Tier

#: What consumers may know of: what is served, and what is suspended for a while.
LISTED = (*Service.SERVED, Service.Status.SUSPENDED)


def listed_service(service_id: uuid.UUID) -> Service:
    """A service that consumers may know of. Raises ``ServiceUnknown`` where it is absent, a draft, or withdrawn."""
    service = Service.objects.filter(id=service_id, status__in=LISTED).first()
    if service is None:
        raise ServiceUnknown
    return service


def lock_entitled_tier(*, consumer: Consumer, service: Service | None, tier: Tier) -> None:
    """Hold the entitlements that allow ``tier`` until the transaction ends: none is lowered meanwhile.

    Without a service they are all of the consumer's: the tier must then not exceed the lowest of them.
    Raises ``NotEntitled`` or ``TierTooHigh``.
    """
    held = Entitlement.objects.select_for_update(of=("self",)).filter(consumer=consumer).order_by("id")
    if service is not None:
        held = held.filter(service=service)
    # Locked without its tier: a joined row would be the one from before the wait for the lock.
    tiers = list(held.values_list("tier_id", flat=True))
    if not tiers:
        raise NotEntitled
    if Tier.objects.filter(name__in=tiers, rank__lt=tier.rank).exists():
        raise TierTooHigh


@transaction.atomic
def entitle(
    *, consumer: Consumer, service: Service, tier: Tier, actor: str, address: str | None = None
) -> Entitlement:
    """Entitle a consumer to a service at ``tier`` at least: made where missing, raised where lower."""
    entitlement, created = Entitlement.objects.select_for_update(of=("self",)).get_or_create(
        consumer=consumer, service=service, defaults={"tier": tier}
    )
    before = None if created else entitlement.tier
    if before is not None and before.rank >= tier.rank:
        return entitlement
    if before is not None:
        entitlement.tier = tier
        entitlement.save(update_fields=("tier",))
    trail.record(
        actor=actor,
        action="entitlement_created" if before is None else "entitlement_changed",
        target_type="entitlement",
        target_id=entitlement.pk,
        before={} if before is None else {"tier": before.name},
        after={"consumer": str(consumer.id), "service": str(service.id), "tier": tier.name},
        address=address,
    )
    return entitlement
