"""Limits as tests set them, counted where admission counts them."""

import uuid

from metering import shards
from quotas.limits import (
    CONCURRENT,
    KINDS,
    MONEY_A_DAY,
    MONEY_A_MONTH,
    REQUESTS,
    TOKENS,
    TOKENS_A_MINUTE,
    Limit,
    Scope,
)


def service_limit(kind: str, service_id: uuid.UUID, value: int) -> Limit:
    return Limit(kind, "service", f"{kind}:{service_id}", value)


def key_limit(kind: str, lineage: uuid.UUID, value: int) -> Limit:
    assert kind in (CONCURRENT, REQUESTS, TOKENS, TOKENS_A_MINUTE)
    return Limit(kind, "key", f"{kind}:{lineage}", value)


def money_limit(kind: str, scope: Scope, of: uuid.UUID | None, nano: int, currency: str = "USD") -> Limit:
    return Limit(kind, scope, shards.money_field(currency, of), nano, currency)


def ordered(*limits: Limit) -> tuple[Limit, ...]:
    return tuple(sorted(limits, key=lambda limit: KINDS.index(limit.kind)))


def every_kind(service_id: uuid.UUID, lineage: uuid.UUID) -> tuple[Limit, ...]:
    """Of each kind at least one, that a few calls do not reach."""
    return ordered(
        service_limit(CONCURRENT, service_id, 5),
        key_limit(CONCURRENT, lineage, 5),
        key_limit(REQUESTS, lineage, 1000),
        service_limit(TOKENS_A_MINUTE, service_id, 10_000),
        key_limit(TOKENS, lineage, 10_000),
        money_limit(MONEY_A_MONTH, "consumer", None, 10**6),
        money_limit(MONEY_A_DAY, "key", lineage, 10**6),
        money_limit(MONEY_A_DAY, "service", service_id, 10**6),
    )
