"""Issuing and revoking API keys. Each writes its audit entry in the transaction of the change.

Analytics makes its events ``api_key_created`` and ``api_key_revoked`` from those entries.
"""

import datetime as dt

from django.db import transaction

from accounts.models import Consumer
from audit import trail
from catalog.entitlements import lock_entitled_tier
from catalog.models import Service, Tier
from common import clock
from keys.format import Environment, mint
from keys.hashing import hash_secret
from keys.models import ApiKey


def issue_key(
    *,
    consumer: Consumer,
    service: Service | None,
    tier: Tier,
    actor: str,
    address: str | None = None,
    name: str = "",
    expires_in_days: int | None = None,
    environment: Environment = "live",
) -> tuple[ApiKey, str]:
    """A new key and its text, known here and never again. ``service`` None: all it is entitled to.

    Raises ``NotEntitled`` or ``TierTooHigh`` (see ``lock_entitled_tier``).
    """
    new = mint(environment)
    key = ApiKey(
        public_id=new.public_id,
        key_hash=hash_secret(new.secret),  # 20 ms, so not while entitlements are locked
        last4=new.last4,
        name=name,
        consumer=consumer,
        service=service,
        tier=tier,
        expires_at=None if expires_in_days is None else clock.now() + dt.timedelta(days=expires_in_days),
    )
    with transaction.atomic():
        lock_entitled_tier(consumer=consumer, service=service, tier=tier)
        key.save(force_insert=True)
        trail.record(
            actor=actor,
            action="api_key_created",
            target_type="api_key",
            target_id=key.id,
            after=_told(key),
            address=address,
        )
    return key, new.text


@transaction.atomic
def revoke_key(*, key: ApiKey, actor: str, address: str | None = None) -> bool:
    """Revoke a key for good. False where somebody was quicker; then nothing is written."""
    moment = clock.now()
    if not ApiKey.objects.filter(id=key.id, revoked_at=None).update(revoked_at=moment):
        return False
    key.revoked_at = moment
    trail.record(
        actor=actor,
        action="api_key_revoked",
        target_type="api_key",
        target_id=key.id,
        before={"revoked_at": None},
        after={
            "consumer_id": str(key.consumer_id),
            "service_id": None if key.service_id is None else str(key.service_id),
            "revoked_at": moment.isoformat(),
        },
        address=address,
    )
    return True


def _told(key: ApiKey) -> dict[str, str | None]:
    """What the audit trail says of a new key: nothing that helps to find its secret."""
    return {
        "public_id": key.public_id,
        "name": key.name,
        "consumer_id": str(key.consumer_id),
        "service_id": None if key.service_id is None else str(key.service_id),
        "tier": key.tier_id,
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
    }
