"""Who uses what where the drain and the ledger are measured: 200 consumers with five keys each, on twenty services.

Made as rows only: a drain asks nothing of keys, so none of them is issued. A key is used at two services, four times
in five at the first of them; 3 % of calls fail. What a call takes is the same at every run.
"""

import random
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bench.errors import BenchError

CONSUMERS, KEYS_EACH, SERVICES = 200, 5, 20
KEYS = CONSUMERS * KEYS_EACH
RATE = Decimal("0.0000025")
TIER = "enterprise"
FAILED, ELSEWHERE = 0.03, 0.2


@dataclass(frozen=True)
class Service:
    id: uuid.UUID
    price_version_id: uuid.UUID


@dataclass(frozen=True)
class Key:
    id: uuid.UUID
    consumer_id: uuid.UUID
    #: Where it is used, mostly and now and then.
    services: tuple[Service, Service]


class Market:
    """Its rows, and entries of the journal as gateways would write them."""

    def __init__(self) -> None:
        from keys.models import ApiKey
        from tests.factories import make_consumer, make_service, make_tier

        make_tier(TIER)
        services = [make_service() for _ in range(SERVICES)]
        self.services = [Service(service.id, service.price_versions.get().id) for service in services]
        self.keys: list[Key] = []
        rows = []
        for consumer in (make_consumer() for _ in range(CONSUMERS)):
            for _ in range(KEYS_EACH):
                number = len(self.keys)
                used = (self.services[number % SERVICES], self.services[(number * 7 + 1) % SERVICES])
                id_ = uuid.uuid4()
                self.keys.append(Key(id_, consumer.id, used))
                rows.append(
                    ApiKey(id=id_, public_id=f"p{number}", key_hash=f"h{number}", last4="0000",
                           consumer=consumer, tier_id=TIER, lineage=id_)
                )  # fmt: skip
        ApiKey.objects.bulk_create(rows)
        self._chance = random.Random(1)  # noqa: S311 - a mix, no secret  # nosec B311

    def entry(self) -> tuple[int, bytes]:
        """The shard and the journal's entry of a call that ends now."""
        from common.ids import uuid7
        from common.money import plain
        from metering import journal, shards

        chance = self._chance
        key = self.keys[int(chance.random() * KEYS)]
        service = key.services[chance.random() < ELSEWHERE]
        used: dict[str, Any] = {"status": "error", "error": "upstream_failed", "usage_source": "none"}
        if chance.random() >= FAILED:
            prompt, completion = 20 + int(chance.random() * 2_000), 1 + int(chance.random() * 500)
            used = {
                "status": "success", "usage_source": "reported", "prompt_tokens": prompt,
                "completion_tokens": completion, "cached_tokens": prompt // 4,
                "cost": plain((prompt + completion) * RATE),
            }  # fmt: skip
        entry = journal.Entry(
            request_id=uuid7(), consumer_id=key.consumer_id, service_id=service.id, api_key_id=key.id,
            price_version_id=service.price_version_id, tier=TIER, currency="USD",
            duration_ms=100 + int(chance.random() * 900), limit=1_000_000_000, **used,
        )  # fmt: skip
        return shards.shard_of(key.consumer_id), journal.encode(entry)


#: Table → how many requests a row of it is.
_REQUESTS = {"usage_records": "1", "usage_rollups": "requests", "usage_daily_rollups": "requests"}
_SUMS = """
    SELECT coalesce(sum({requests}), 0), coalesce(sum(total_tokens), 0), coalesce(sum(cost_amount), 0) FROM {table}
"""


def check_sums() -> int:
    """How many rows the ledger has. Raises ``BenchError`` unless rollups and quota periods say the same of them."""
    from django.db import connection

    found = []
    with connection.cursor() as cursor:
        for table, requests in _REQUESTS.items():
            cursor.execute(_SUMS.format(requests=requests, table=table))
            found.append(tuple(cursor.fetchone()))
        cursor.execute("SELECT coalesce(sum(used), 0) FROM quota_periods")
        (used,) = cursor.fetchone()
    if len(set(found)) != 1 or used != found[0][1]:
        raise BenchError(f"ledger, hours and days have {found}, quota periods {used} tokens")
    return int(found[0][0])
