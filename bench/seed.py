"""The marketplace that is measured: 200 consumers with five keys each, on 20 services.

`python -m bench.seed UPSTREAM FILE`, inside the application's environment. Keys are issued as anybody's are, Argon2
and audit entry included, by several processes at once. FILE gets what is needed to call with them.
"""

import json
import multiprocessing
import random
import sys
from pathlib import Path
from typing import Any

import django

CONSUMERS, KEYS_EACH, SERVICES, SERVICES_EACH = 200, 5, 20, 5
PROCESSES = 4
ACTOR = "bench"
TIER = "bench"
# Real limits that are really counted, too high to be met in any run.
LIMITS: dict[str, Any] = {"rank": 1000, "requests_per_second": 1_000_000, "tokens_per_month": 10**14}
PRICING = {"model": "per_token", "rate_per_token": "0.0000025", "currency": "USD"}  # a price  # nosec B105
SLA = {"latency_p95_ms": 2000, "error_rate": 0.01}


def service_name(number: int) -> str:
    return f"bench-{number:02d}"


def services_of(consumer: int) -> list[int]:
    """Every service gets equally many consumers."""
    return [(consumer * SERVICES_EACH + offset) % SERVICES for offset in range(SERVICES_EACH)]


def publish(upstream: str) -> None:
    from catalog.models import Tier
    from catalog.publishing import publish_service

    Tier.objects.create(name=TIER, **LIMITS)
    for number in range(SERVICES):
        publish_service(
            actor=ACTOR, endpoint=upstream, name=service_name(number), version="1.0", pricing=PRICING, sla=SLA
        )


def move_upstream(upstream: str) -> None:
    """The services stay, their upstream has another port."""
    from catalog.models import Service
    from catalog.publishing import change_service

    for service in Service.objects.filter(name__startswith="bench-"):
        service.endpoint = upstream
        change_service(service=service, actor=ACTOR)


def make_consumer(number: int) -> list[dict[str, Any]]:
    """One consumer, its entitlements and its keys: each opens every service that the consumer may call."""
    from accounts.models import Consumer
    from catalog.entitlements import entitle
    from catalog.models import Service, Tier
    from keys.issuing import issue_key

    names = [service_name(service) for service in services_of(number)]
    tier = Tier.objects.get(name=TIER)
    consumer = Consumer.objects.create(name=f"Bench consumer {number}")
    for service in Service.objects.filter(name__in=names):
        entitle(consumer=consumer, service=service, tier=tier, actor=ACTOR)
    issued = [
        issue_key(consumer=consumer, service=None, tier=tier, actor=ACTOR, name=f"key {key}")
        for key in range(KEYS_EACH)
    ]
    return [{"key": text, "services": names} for _, text in issued]


def calls_of(keys: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Every key with every service it opens, mixed, and the same at every run."""
    calls = [(key["key"], service) for key in keys for service in key["services"]]
    random.Random(1).shuffle(calls)  # noqa: S311 - an order, not a secret  # nosec B311
    return calls


def main(upstream: str, file: Path) -> None:
    from devstack.private import write_private

    if file.exists():
        move_upstream(upstream)
        return
    publish(upstream)
    # Made anew in every process: a connection to the database must not be shared by a fork.
    with multiprocessing.get_context("spawn").Pool(PROCESSES, initializer=django.setup) as pool:
        keys = [key for made in pool.map(make_consumer, range(CONSUMERS), chunksize=5) for key in made]
    write_private(file, json.dumps(keys))


if __name__ == "__main__":
    django.setup()
    main(sys.argv[1], Path(sys.argv[2]))
