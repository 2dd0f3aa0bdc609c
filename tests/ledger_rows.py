"""Rows of the ledger and of its outbox as the drain leaves them, for tests of what reads them."""

import datetime as dt
import time
import uuid
from decimal import Decimal
from typing import Any

from accounts.models import Consumer
from catalog.models import Service
from common import clock
from common.ids import moment_of, uuid7
from keys.models import ApiKey
from metering import partitions
from metering.models import JournalBatch, UsageRecord
from tests.factories import make_key


class Calls:
    """Calls of one consumer at one service."""

    def __init__(self, service: Service, consumer: Consumer | None = None) -> None:
        self.service = service
        self.key: ApiKey = make_key(consumer, service)[0]

    def record(
        self,
        *,
        at: dt.datetime | None = None,
        status: str = "success",
        duration_ms: int = 100,
        prompt: int = 10,
        completion: int = 5,
        cost: str = "0.0015",
        **fields: Any,
    ) -> UsageRecord:
        """One row of the ledger, begun ``at`` (now where none is given)."""
        if at is None:
            time.sleep(0.001)  # ids of one millisecond are in no order
        elif clock.month_of(at) != clock.month_of(clock.now()):
            partitions.make([clock.month_of(at)])
        id_ = uuid7(None if at is None else int(at.timestamp() * 1000))
        return UsageRecord.objects.create(
            **{
                "id": id_,
                "request_id": id_,
                "service": self.service,
                "consumer_id": self.key.consumer_id,
                "api_key": self.key,
                "price_version": self.service.price_versions.get(),
                "tier": self.key.tier,
                "timestamp": moment_of(id_),
                "duration_ms": duration_ms,
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": completion,
                    "cached_tokens": 0,
                    "reasoning_tokens": 0,
                    "usage_source": "reported",
                },
                "cost": {"amount": cost, "currency": "USD"},
                "total_tokens": prompt + completion,
                "cost_amount": Decimal(cost),
                "currency": "USD",
                "status": status,
                **fields,
            }
        )


def outbox(shard: int, number: int, *records: UsageRecord | uuid.UUID) -> JournalBatch:
    """The drain's word that these rows were written or changed."""
    ids = [record.id if isinstance(record, UsageRecord) else record for record in records]
    return JournalBatch.objects.create(shard=shard, number=number, record_ids=ids)
