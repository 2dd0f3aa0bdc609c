"""Several processes that share one gateway's port: each serves, and whichever is asked tells of all of them."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.parser import text_string_to_metric_families

from metering.models import UsageRecord
from tests import factories
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack
from tests.live.test_contract import PROMPT

CALLS = 40


@pytest.fixture
def shared(stack: Stack) -> Iterator[GatewayProcess]:
    gateway = stack.start_gateway(workers=2)
    yield gateway
    gateway.terminate()


def counted(gateway: GatewayProcess) -> Counter[str]:
    """Calls that were served, by process."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(gateway.get("/metrics").text):
        for sample in family.samples:
            is_one = sample.name == "consumption_requests_total" and sample.labels["status"] == "success"
            found[sample.labels["worker"]] += int(sample.value) if is_one else 0
    return found


def test_every_process_serves_and_metrics_are_of_all(stack: Stack, shared: GatewayProcess) -> None:
    service = factories.make_service(endpoint=stack.upstream_url)
    _, text = factories.make_key(service=service)
    wait_for(lambda: len(counted(shared)) == 2)
    with ThreadPoolExecutor(8) as callers:
        answers = list(
            callers.map(lambda _: shared.consume(service.id, text, PROMPT).status_code, range(CALLS))
        )
    assert answers == [200] * CALLS
    wait_for(lambda: counted(shared).total() == CALLS)
    wait_for(lambda: UsageRecord.objects.filter(service=service).count() == CALLS)

    killed = min(counted(shared))
    os.kill(int(killed), signal.SIGKILL)

    # Another one takes its place.
    wait_for(lambda: killed not in counted(shared) and len(counted(shared)) == 2)
