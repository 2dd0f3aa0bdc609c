"""Issuing, rotating, changing and revoking API keys. Each writes its audit entry in the transaction of the change.

Analytics makes its events ``api_key_created`` and ``api_key_revoked`` from those entries.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from django.db import transaction

from accounts.models import Consumer
from audit import trail
from audit.changes import as_json, differences
from catalog.entitlements import lock_entitled_tier
from catalog.models import Service, Tier
from common import clock
from keys.errors import KeyNotUsable, KeyReplaced, OtherEnvironment
from keys.format import Environment, NewKey, mint
from keys.hashing import hash_secret
from keys.models import ApiKey, Scope

#: What may be changed of a key, and what a key that replaces it takes over. Columns of ``ApiKey``.
CHANGEABLE = (
    "name",
    "metadata",
    "scopes",
    "allowed_networks",
    "requests_per_second",
    "tokens_per_month",
    "concurrent_requests",
    "tokens_per_minute",
    "budget_amount",
    "budget_currency",
    "budget_period",
    "budget_soft",
)
_INHERITED = (*CHANGEABLE, "consumer_id", "service_id", "tier_id", "environment", "lineage")
#: What the audit trail says of a new key: nothing that helps to find its secret.
_TOLD = (
    *("public_id", "consumer_id", "service_id", "environment", "lineage", "generation", "expires_at"),
    *(name for name in CHANGEABLE if name != "metadata"),
)
LONGEST_OVERLAP = dt.timedelta(days=30)


def issue_key(
    *,
    consumer: Consumer,
    service: Service | None,
    tier: Tier,
    actor: str,
    address: str | None = None,
    expires_in_days: int | None = None,
    environment: Environment = "live",
    name: str = "",
    options: Mapping[str, Any] | None = None,
) -> tuple[ApiKey, str]:
    """A new key and its text, known here and never again. ``service`` None: all it is entitled to.

    ``options``: columns of ``CHANGEABLE``; a key that is given no scopes has all of them. Raises ``NotEntitled`` or
    ``TierTooHigh`` (see ``lock_entitled_tier``), and ``OtherEnvironment`` for a service that it could never reach.
    """
    check_environment(service=service, environment=environment)
    new = mint(environment)
    key = _key_of(
        new,
        consumer=consumer,
        service=service,
        tier=tier,
        environment=environment,
        expires_at=None if expires_in_days is None else clock.now() + dt.timedelta(days=expires_in_days),
        **{"name": name, "scopes": list(Scope.values), **(options or {})},
    )
    with transaction.atomic():
        lock_entitled_tier(consumer=consumer, service=service, tier=tier)
        key.save(force_insert=True)
        _tell("created", key, actor, address, after=_told(key))
    return key, new.text


def check_environment(*, service: Service | None, environment: str) -> None:
    """Raises ``OtherEnvironment`` where a key for one service could never reach it."""
    if service is not None and service.testing != (environment == ApiKey.Environment.TEST):
        raise OtherEnvironment


def rotate_key(
    *, key: ApiKey, overlap: dt.timedelta, actor: str, address: str | None = None
) -> tuple[ApiKey, str]:
    """A key that replaces another one, and its text. Both work until ``overlap`` has passed, or one is revoked.

    The new one may do what the old one may, and lives as long as that was made for. Of two rotations at once one is
    refused. Raises ``KeyNotUsable`` or ``KeyReplaced``.
    """
    new = mint("test" if key.environment == ApiKey.Environment.TEST else "live")
    made = _key_of(new)  # 20 ms of hashing, so not while the row is locked
    with transaction.atomic():
        old = _locked(key)
        if old.history.filter(generation__gt=old.generation).exists():
            raise KeyReplaced
        for column in _INHERITED:
            setattr(made, column, getattr(old, column))
        now = clock.now()
        made.generation = old.generation + 1
        made.expires_at = None if old.expires_at is None else now + (old.expires_at - old.created_at)
        made.save(force_insert=True)
        _tell("created", made, actor, address, after=_told(made))
        before, old.expires_at = old.expires_at, min(filter(None, (old.expires_at, now + overlap)))
        old.save(update_fields=("expires_at",))
        _tell(
            "rotated",
            old,
            actor,
            address,
            before={"expires_at": as_json(before)},
            after={"expires_at": as_json(old.expires_at), "replaced_by": str(made.id)},
        )
    return made, new.text


@transaction.atomic
def change_key(*, key: ApiKey, changes: Mapping[str, Any], actor: str, address: str | None = None) -> ApiKey:
    """Change columns of ``CHANGEABLE``; nothing is written where nothing changes. Raises ``KeyNotUsable``."""
    changed = _locked(key)
    before = {column: as_json(getattr(changed, column)) for column in changes}
    for column, value in changes.items():
        setattr(changed, column, value)
    was, became = differences(before, {column: as_json(value) for column, value in changes.items()})
    if became:
        changed.save(update_fields=set(became) & set(CHANGEABLE))
        _tell("changed", changed, actor, address, before=was, after=became)
    return changed


@transaction.atomic
def revoke_key(*, key: ApiKey, actor: str, address: str | None = None, **reason: str) -> bool:
    """Revoke a key for good. False where somebody was quicker; then nothing is written.

    ``reason``: more for the audit trail to say.
    """
    moment = clock.now()
    if not ApiKey.objects.filter(id=key.id, revoked_at=None).update(revoked_at=moment):
        return False
    key.revoked_at = moment
    after = {
        "consumer_id": str(key.consumer_id),
        "service_id": None if key.service_id is None else str(key.service_id),
        "revoked_at": moment.isoformat(),
        **reason,
    }
    _tell("revoked", key, actor, address, before={"revoked_at": None}, after=after)
    return True


def _key_of(new: NewKey, **columns: Any) -> ApiKey:
    return ApiKey(public_id=new.public_id, key_hash=hash_secret(new.secret), last4=new.last4, **columns)


def _locked(key: ApiKey) -> ApiKey:
    """The row as it is now, held until the transaction ends. Raises ``KeyNotUsable``."""
    row = ApiKey.objects.select_for_update(of=("self",)).get(id=key.id)
    if not row.usable():
        raise KeyNotUsable
    return row


def _tell(
    verb: str,
    key: ApiKey,
    actor: str,
    address: str | None,
    *,
    after: dict[str, Any],
    before: dict[str, Any] | None = None,
) -> None:
    trail.record(
        actor=actor,
        action=f"api_key_{verb}",
        target_type="api_key",
        target_id=key.id,
        before=before,
        after=after,
        address=address,
    )


def _told(key: ApiKey) -> dict[str, Any]:
    return {"tier": key.tier_id, **{column: as_json(getattr(key, column)) for column in _TOLD}}
