"""Keeping what policies refused."""

import uuid
from collections.abc import Sequence

from accounts.models import Consumer
from catalog.models import Service
from policy.models import PolicyViolation


def keep_violations(violations: Sequence[PolicyViolation]) -> None:
    """Add violations, in the caller's transaction. Those that are known stay as they are.

    A violation whose consumer or service has been deleted since is left out: nothing could show it.
    """
    if not violations:
        return
    consumers = _known(Consumer, {violation.consumer_id for violation in violations})
    services = _known(Service, {violation.service_id for violation in violations})
    PolicyViolation.objects.bulk_create(
        [row for row in violations if row.consumer_id in consumers and row.service_id in services],
        ignore_conflicts=True,
    )


def _known(model: type[Consumer] | type[Service], ids: set[uuid.UUID]) -> set[uuid.UUID]:
    return set(model.objects.filter(id__in=ids).values_list("id", flat=True))
