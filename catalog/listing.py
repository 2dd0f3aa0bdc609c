"""What a caller may call, at which price and within which limits."""

import datetime as dt
import uuid
from collections.abc import Iterable

from django.db.models import F, OuterRef, QuerySet, Subquery

from accounts.acting import Caller
from catalog.entitlements import listed_service
from catalog.errors import NotEntitled
from catalog.models import Entitlement, PriceVersion, Service, Tier
from common import clock


def entitlements_of(caller: Caller, at: dt.datetime | None = None) -> QuerySet[Entitlement]:
    """The entitlements that the caller can use now, with ``name``, ``version`` and ``price`` of the service.

    ``price`` is the pricing in force, or None where the first one is still to come.
    """
    in_force = PriceVersion.objects.approved().filter(
        service=OuterRef("service"), effective_from__lte=at or clock.now()
    )
    usable = Entitlement.objects.filter(
        consumer_id=caller.consumer_id, service__status__in=Service.SERVED
    ).select_related("service", "tier")
    if caller.service_id is not None:
        usable = usable.filter(service_id=caller.service_id)
    if caller.testing is not None:
        usable = usable.filter(service__testing=caller.testing)
    return usable.annotate(
        name=F("service__name"),
        version=F("service__version"),
        price=Subquery(in_force.order_by("-effective_from").values("pricing")[:1]),
    )


def entitlement_of(caller: Caller, service_id: uuid.UUID) -> Entitlement:
    """What lets the caller look into a service, whatever its status, with the tier in force for that caller.

    Raises ``NotEntitled`` for one that is listed, and ``ServiceUnknown`` for any other.
    """
    entitlement = (
        Entitlement.objects.filter(consumer_id=caller.consumer_id, service_id=service_id)
        .select_related("service", "tier")
        .first()
    )
    if (
        entitlement is None
        or caller.service_id not in {None, service_id}
        or caller.testing not in {None, entitlement.service.testing}
    ):
        listed_service(service_id)
        raise NotEntitled
    apply_tier_of(caller, [entitlement])
    return entitlement


def apply_tier_of(caller: Caller, entitlements: Iterable[Entitlement]) -> None:
    """The entitlement rules, and a key may have been issued for less. Saves nothing.

    Sets ``tier``, and ``in_force``: the limits that hold at it.
    """
    issued_for = None if caller.tier is None else Tier.objects.get(name=caller.tier)
    for entitlement in entitlements:
        tier = entitlement.tier
        if issued_for is not None:
            tier = min(tier, issued_for, key=lambda each: each.rank)
        entitlement.in_force = entitlement.limits_at(tier)
        entitlement.tier = tier
