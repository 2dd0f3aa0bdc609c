"""Limits as tests set them, counted where admission counts them."""

import uuid

from metering import shards
from quotas.limits import CONCURRENT, KINDS, REQUESTS, TOKENS, TOKENS_A_MINUTE, Limit, Scope


def service_limit(kind: str, service_id: uuid.UUID, value: int) -> Limit:
    return Limit(kind, "service", f"{kind}:{service_id}", value)


def key_limit(kind: str, lineage: uuid.UUID, value: int) -> Limit:
    assert kind in (CONCURRENT, REQUESTS, TOKENS, TOKENS_A_MINUTE)
    return Limit(kind, "key", f"{kind}:{lineage}", value)


def money_limit(kind: str, scope: Scope, of: uuid.UUID | None, nano: int, currency: str = "USD") -> Limit:
    return Limit(kind, scope, shards.money_field(currency, of), nano, currency)


def ordered(*limits: Limit) -> tuple[Limit, ...]:
    return tuple(sorted(limits, key=lambda limit: KINDS.index(limit.kind)))
