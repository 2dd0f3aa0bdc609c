"""What has to hold once everything is healed: I1, I2, I4, I5 and I10, of the calls of one schedule."""

import datetime as dt
import uuid
from collections import Counter, defaultdict
from decimal import Decimal
from typing import Any

import redis
from django.db.models import Sum

from common import clock
from common.ids import moment_of
from finance.charges import Category
from finance.consumer_months import charges_of
from metering import shards
from metering.journal import TOKEN_COUNTS, Entry
from metering.models import (
    DailyUsageRollup,
    DeadLetter,
    JournalBatch,
    JournalPosition,
    QuotaPeriod,
    ShardEpoch,
    UsageRecord,
    UsageRollup,
)
from tests.schedules.gateway import Told

ROLLED_UP = ("consumer_id", "service_id", "api_key_id", "price_version_id", "status", "currency", "kind")


class Before:
    """What was there before the schedule."""

    def __init__(self) -> None:
        self.letter = DeadLetter.objects.order_by("-id").values_list("id", flat=True).first() or 0
        self.batches = dict(JournalPosition.objects.values_list("shard", "batch"))


def assert_all_hold(told: Told, before: Before, client: redis.Redis, *, lost: bool) -> None:
    consumers = [buyer.consumer_id for buyer in told.buyers]
    rows = list(UsageRecord.objects.filter(consumer_id__in=consumers))
    assert_each_call_is_a_row_once(told, rows, lost=lost)
    assert_sums_agree(consumers, rows)
    assert_counters_agree(told, rows, client)
    assert_nothing_is_left(told, client)
    assert_letters_are_the_poison(told, before, lost=lost)
    assert_the_outbox_is_whole(told, rows, before)
    assert_invoices_agree(told, rows)


def assert_each_call_is_a_row_once(told: Told, rows: list[UsageRecord], *, lost: bool) -> None:
    """I1 and I2. What nobody was told of may be on record as unsettled, at no cost."""
    ids = Counter(row.id for row in rows)
    assert not [id_ for id_, times in ids.items() if times > 1], "an id is there twice"
    assert Counter(row.request_id for row in rows) == ids, "a correction in a month that is open"
    missing = told.settled.keys() - ids.keys()
    assert not missing, f"{len(missing)} of {len(told.settled)} calls are missing, such as {min(missing)}"
    for row in rows:
        if row.id in told.settled:
            assert as_told(row) == as_entered(told.settled[row.id])
        else:
            assert row.id in told.abandoned | told.refused, f"nobody made the call {row.id}"
            assert (row.status, row.total_tokens, row.cost_amount) == ("unsettled", 0, Decimal(0))
    unheard = told.abandoned - ids.keys()
    assert lost or not unheard, f"abandoned calls are missing: {unheard}"


def as_told(row: UsageRecord) -> tuple[Any, ...]:
    return (
        row.consumer_id, row.service_id, row.api_key_id, row.price_version_id, row.status, row.currency,
        row.cost_amount, *(row.usage.get(name, 0) for name in TOKEN_COUNTS),
    )  # fmt: skip


def as_entered(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.consumer_id, entry.service_id, entry.api_key_id, entry.price_version_id, entry.status, entry.currency,
        Decimal(entry.cost), *(getattr(entry, name) for name in TOKEN_COUNTS),
    )  # fmt: skip


def assert_sums_agree(consumers: list[uuid.UUID], rows: list[UsageRecord]) -> None:
    """I4: the ledger, its rollups and its quota periods."""
    ledger: dict[Any, list[Any]] = defaultdict(lambda: [0, 0, Decimal(0)])
    tokens: Counter[tuple[uuid.UUID, uuid.UUID]] = Counter()
    for row in rows:
        sums = ledger[tuple(getattr(row, name) for name in ROLLED_UP)]
        sums[0], sums[1], sums[2] = sums[0] + 1, sums[1] + row.total_tokens, sums[2] + row.cost_amount
        tokens[row.consumer_id, row.service_id] += row.total_tokens
    for rollups in (UsageRollup, DailyUsageRollup):
        found = rollups.objects.filter(consumer_id__in=consumers).values_list(*ROLLED_UP)
        added = {
            tuple(of): sums
            for *of, requests, total, cost in found.annotate(
                Sum("requests"), Sum("total_tokens"), Sum("cost_amount")
            )
            if any(sums := [requests, total, cost])
        }
        assert added == dict(ledger), f"{rollups.__name__} is not the ledger's sums"
    used: Counter[tuple[uuid.UUID, uuid.UUID]] = Counter()
    for period in QuotaPeriod.objects.filter(consumer_id__in=consumers):
        used[period.consumer_id, period.service_id] += period.used
    assert dict(used) == dict(tokens), "the quota periods are not the ledger's sums"


def assert_counters_agree(told: Told, rows: list[UsageRecord], client: redis.Redis) -> None:
    """I4: live counters of tokens and money, and nothing reserved."""
    wanted: dict[str, Counter[str]] = defaultdict(Counter)
    lineages = {buyer.consumer_id: buyer.lineage for buyer in told.buyers}
    for row in rows:
        shard, day, lineage = (
            shards.shard_of(row.consumer_id),
            row.timestamp.date(),
            lineages[row.consumer_id],
        )
        quota = shards.quota_key(shard, row.consumer_id, row.service_id, clock.month_of(moment_of(row.id)))
        wanted[quota]["used"] += row.total_tokens
        by_key, *money = shards.spent_fields(lineage, row.service_id, row.currency)
        month, today = (
            shards.spent_key(shard, row.consumer_id, f"{day:{form}}") for form in ("%Y%m", "%Y%m%d")
        )
        wanted[month][by_key] += row.total_tokens
        nano = int(row.cost_amount * 10**9)
        for name in money:
            wanted[month][name] += nano
            wanted[today][name] += nano
    found: dict[str, Counter[str]] = {}
    for key in wanted:
        fields: Any = client.hgetall(key)
        found[key] = Counter({name.decode(): int(value) for name, value in fields.items()})
    # Counters of nothing compare as if they were not there.
    differing = {key: (found[key], wanted[key]) for key in wanted if found[key] != wanted[key]}
    assert not differing, f"live counters and ledger: {differing}"


def assert_nothing_is_left(told: Told, client: redis.Redis) -> None:
    """I5; and gateways and the ledger agree how far the journals were drained."""
    info: Any = client.info("server")
    for shard in {buyer.shard for buyer in told.buyers}:
        place, row = JournalPosition.objects.get(shard=shard), ShardEpoch.objects.get(shard=shard)
        assert (row.state, row.number) == ("live", place.epoch)
        assert client.get(shards.epoch_key(shard)) == f"{place.epoch}:{info['run_id']}".encode()
        assert client.get(shards.watermark_key(shard)) == f"{place.epoch}:{place.last_id}".encode()
        assert not client.hlen(shards.leases_key(shard)), "a lease is open"


def assert_letters_are_the_poison(told: Told, before: Before, *, lost: bool) -> None:
    letters = DeadLetter.objects.filter(id__gt=before.letter)
    found = Counter(bytes(letter.entry) for letter in letters)
    wanted = Counter(told.poison)
    assert found == wanted or (lost and found <= wanted), f"dead letters {found}, poison {wanted}"


def assert_the_outbox_is_whole(told: Told, rows: list[UsageRecord], before: Before) -> None:
    """I7, as far as PostgreSQL: every row is in a batch, and no batch is missing."""
    told_of: set[uuid.UUID] = set()
    for shard in {buyer.shard for buyer in told.buyers}:
        first = before.batches.get(shard, 0)
        batches = JournalBatch.objects.filter(shard=shard, number__gt=first).order_by("number")
        numbers = [batch.number for batch in batches]
        last = JournalPosition.objects.get(shard=shard).batch
        assert numbers == list(range(first + 1, last + 1)), "a batch is missing"
        told_of |= {id_ for batch in batches for id_ in batch.record_ids}
    assert told_of == {row.id for row in rows}


def assert_invoices_agree(told: Told, rows: list[UsageRecord]) -> None:
    """I10: what a month comes to is the ledger's sum, and that of tokens times the rate of their price version."""
    prices = {offer.price_version_id: offer.price for offer in told.offers}
    for buyer in told.buyers:
        mine = [row for row in rows if row.consumer_id == buyer.consumer_id]
        wanted: dict[dt.date, Counter[str]] = defaultdict(Counter)
        for row in mine:
            entry = told.settled.get(row.id)
            assert row.cost_amount == (Decimal(entry.cost) if entry else 0)
            currency = prices[row.price_version_id].currency
            wanted[clock.month_of(row.timestamp)][currency] += row.cost_amount  # type: ignore[assignment]
        for month, of_it in wanted.items():
            for invoice in charges_of(buyer.consumer_id, month):
                assert not [line for line in invoice.lines if line.category == Category.RECORDED]
                used = sum(
                    (line.amount for line in invoice.lines if line.category == Category.USAGE), Decimal(0)
                )
                assert used == of_it[invoice.currency]
