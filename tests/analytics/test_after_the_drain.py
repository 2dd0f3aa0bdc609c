"""What the drain writes becomes events while it writes, whoever is killed: ids of events = ids of the ledger."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable

from django.conf import settings

from analytics import stream
from analytics.models import AnalyticsEvent
from metering.models import UsageRecord
from tests.harness.servers import ROOT
from tests.harness.waiting import wait_for
from tests.metering.market import Market, database_url

FLUSHING = "import django; django.setup()\nfrom analytics import stream\nwhile True:\n    stream.flush()\n"


def more_events_than(number: int) -> Callable[[], bool]:
    return lambda: AnalyticsEvent.objects.count() > number


def assert_every_row_is_one_event() -> None:
    events = Counter(AnalyticsEvent.objects.values_list("event_id", flat=True))
    assert events == Counter(str(id_) for id_ in UsageRecord.objects.values_list("id", flat=True))


def test_a_call_of_unknown_outcome_that_is_settled_late_has_the_outcome_in_its_event(market: Market) -> None:
    entry = market.entry()
    market.write(market.unsettled(request_id=entry.request_id), how="reaped")
    market.drain()
    stream.flush()
    assert AnalyticsEvent.objects.get().data["status"] == "unsettled"
    market.write(entry, how="late")
    market.drain()
    stream.flush()
    event = AnalyticsEvent.objects.get()
    assert (event.data["status"], event.data["settlement"], event.data["cost"]) == (
        "success",
        "late",
        "0.003",
    )
    assert event.data["tokens"] == {
        "prompt": 10,
        "completion": 20,
        "cached": 0,
        "reasoning": 0,
        "cache_write": 0,
        "audio_prompt": 0,
        "audio_completion": 0,
        "total": 30,
    }


def test_flushes_that_are_killed_while_a_drain_writes_lose_and_repeat_nothing(market: Market) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "REDIS_URL": settings.REDIS_URL,
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    market.start_drain()
    written = 0
    for _ in range(6):
        before = AnalyticsEvent.objects.count()
        flush = subprocess.Popen([sys.executable, "-c", FLUSHING], cwd=ROOT, env=environment)
        for _ in range(10):
            market.write(*[market.entry() for _ in range(300)])
            written += 300
        wait_for(more_events_than(before))
        time.sleep(random.uniform(0, 0.1))
        flush.kill()
        flush.wait()
    market.wait_until_drained()
    wait_for(lambda: UsageRecord.objects.count() == written)
    stream.flush(longest=60)
    assert_every_row_is_one_event()
