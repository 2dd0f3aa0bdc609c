"""A consumer, a service and a key, the journal they write to, and drains to run over it."""

import datetime as dt
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import redis
from django.conf import settings
from django.db import connection
from django.db.models import Count, Sum

from accounts.models import Consumer
from catalog.models import Service
from common import clock
from common.ids import uuid7
from keys.models import ApiKey
from metering import drain, journal, shards
from metering.drain import Drain
from metering.models import DailyUsageRollup, DeadLetter, QuotaPeriod, UsageRecord, UsageRollup
from tests import factories
from tests.harness.servers import ROOT
from tests.harness.waiting import wait_for


@dataclass
class Market:
    """One consumer at one service, and a client of the Valkey that the settings point at."""

    consumer: Consumer
    service: Service
    key: ApiKey
    valkey: redis.Redis
    price_version_id: uuid.UUID
    drains: list[subprocess.Popen[bytes]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    log: Path = Path(os.devnull)

    def entry(self, **fields: Any) -> journal.Entry:
        """A successful call of 10 and 20 tokens at 0.003 USD, but for what is given."""
        defaults: dict[str, Any] = {
            "request_id": uuid7(),
            "consumer_id": self.consumer.id,
            "service_id": self.service.id,
            "api_key_id": self.key.id,
            "key_lineage": self.key.lineage,
            "price_version_id": self.price_version_id,
            "tier": "enterprise",
            "currency": "USD",
            "status": "success",
            "duration_ms": 120,
            "prompt_tokens": 10,
            "completion_tokens": 20,
            "usage_source": "reported",
            "cost": "0.003",
            "limit": 1_000_000,
        }
        return journal.Entry(**(defaults | fields))

    def unsettled(self, **fields: Any) -> journal.Entry:
        """What the reaper journals for a call that nobody settled."""
        nothing: dict[str, Any] = {
            "status": "unsettled",
            "duration_ms": 0,
            "prompt_tokens": 0,
            "completion_tokens": 0,
            "usage_source": "none",
            "cost": "0",
        }
        return self.entry(**(nothing | fields))

    def write(self, *entries: journal.Entry | bytes, how: str = "lease") -> None:
        pipeline = self.valkey.pipeline(transaction=False)
        for entry in entries:
            data = entry if isinstance(entry, bytes) else journal.encode(entry)
            shard = self.shard if isinstance(entry, bytes) else shards.shard_of(entry.consumer_id)
            pipeline.xadd(shards.journal_key(shard), {"e": data, "s": how})
        pipeline.execute()

    @property
    def shard(self) -> int:
        return shards.shard_of(self.consumer.id)

    @property
    def month(self) -> dt.date:
        return clock.month_of(clock.now())

    @property
    def quota_key(self) -> str:
        return shards.quota_key(self.shard, self.consumer.id, self.service.id, self.month)

    def spent_key(self, period: str) -> str:
        return shards.spent_key(self.shard, self.consumer.id, period)

    def used(self) -> int:
        """What the live counter says."""
        value: Any = self.valkey.hget(self.quota_key, "used")
        return int(value or 0)

    def waiting(self) -> int:
        """Entries in all journals."""
        pipeline = self.valkey.pipeline(transaction=False)
        for shard in range(shards.SHARDS):
            pipeline.xlen(shards.journal_key(shard))
        return sum(pipeline.execute())

    def drain(self) -> None:
        """Run a drain in this process until every shard is open and every journal empty.

        One that finds nothing says so at once instead of waiting for more.
        """
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(drain, "BLOCK_MS", 1)
            Drain().run(until=lambda: self.waiting() == 0)

    def start_drain(
        self, command: Sequence[str] = ("manage.py",), **environment: str
    ) -> subprocess.Popen[bytes]:
        """A drain as a process of its own. ``command``: what Python is given to run it."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command, "drain_usage"],
                cwd=ROOT,
                env={
                    **os.environ,
                    "DATABASE_URL": database_url(),
                    "REDIS_URL": settings.REDIS_URL,
                    "PROCESS": "gateway",
                    **self.environment,
                    **environment,
                },
                stderr=log,
            )
        self.drains.append(process)
        return process

    def wait_until_drained(self, *, seconds: float = 30.0) -> None:
        wait_for(lambda: self.waiting() == 0, seconds=seconds)

    def record(self, entry: journal.Entry) -> UsageRecord:
        return UsageRecord.objects.get(id=entry.request_id)

    def assert_reconciled(self) -> None:
        """Σ ledger = Σ rollups = Σ quota periods, by consumer and service, of calls; and no id twice."""
        by = ("consumer_id", "service_id")
        usage = UsageRecord.objects.filter(kind="usage")
        ledger = sums(usage.values(*by).annotate(n=Count("id"), t=Sum("total_tokens"), c=Sum("cost_amount")))
        for rollups in (UsageRollup, DailyUsageRollup):
            found = rollups.objects.filter(kind="usage").values(*by)
            added = found.annotate(n=Sum("requests"), t=Sum("total_tokens"), c=Sum("cost_amount"))
            assert ledger == sums(added), rollups
        periods = QuotaPeriod.objects.values(*by).annotate(t=Sum("used"))
        assert {(row["consumer_id"], row["service_id"]): row["t"] for row in periods} == {
            pair: row[1] for pair, row in ledger.items()
        }
        assert UsageRecord.objects.count() == UsageRecord.objects.values("id").distinct().count()

    def stop(self) -> None:
        for process in self.drains:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def sums(rows: Any) -> dict[tuple[uuid.UUID, uuid.UUID], tuple[int, int, Decimal]]:
    return {(row["consumer_id"], row["service_id"]): (row["n"], row["t"], row["c"]) for row in rows}


def database_url() -> str:
    """The database that this test uses, for a process of its own."""
    at = connection.settings_dict
    account = quote(at["USER"], safe="") + (f":{quote(at['PASSWORD'], safe='')}" if at["PASSWORD"] else "")
    return f"postgres://{account}@{at['HOST']}:{at['PORT']}/{at['NAME']}"


def metadata(text: bytes) -> msgspec.Raw:
    return msgspec.Raw(text)


def letters() -> list[tuple[str, str]]:
    return list(DeadLetter.objects.order_by("id").values_list("reason", "detail"))


def open_market(log: Path) -> Market:
    consumer = factories.make_consumer()
    service = factories.make_service()
    key, _ = factories.make_key(consumer, service)
    price = service.price_versions.get()
    client = redis.Redis.from_url(settings.REDIS_URL)
    client.flushdb()
    return Market(consumer, service, key, client, price.id, log=log)


@pytest.fixture
def market(committed: None, tmp_path: Path) -> Iterator[Market]:
    opened = open_market(tmp_path / "drain.log")
    yield opened
    opened.stop()
    opened.valkey.flushdb()
    opened.valkey.close()
