"""Writing the audit trail. Call it inside the transaction of the change it tells of."""

from typing import Any

from django.http import HttpRequest

from audit.models import AuditEntry
from common.networks import client_address


def record(
    *,
    actor: str,
    action: str,
    target_type: str,
    target_id: object,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    address: str | None = None,
) -> AuditEntry:
    """Append one entry; the caller's transaction decides whether change and entry both stand."""
    return AuditEntry.objects.create(
        actor=actor,
        action=action,
        target_type=target_type,
        target_id=str(target_id),
        before=before or {},
        after=after or {},
        address=address,
    )


def address_of(request: HttpRequest) -> str | None:
    """The client's address for an entry, or None where the server was not told (a socket file)."""
    peer = request.META.get("REMOTE_ADDR", "")
    return client_address(peer, request.META.get("HTTP_X_FORWARDED_FOR", "")) or None
