"""Several endpoints, fallbacks, breakers, deadlines and credentials, against upstreams that fail in their ways."""

import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests
from django.db import transaction

from catalog.models import Service
from devstack.ports import free_port
from metering.models import UsageRecord
from tests import factories
from tests.harness import hostile
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, patiently
from tests.live.test_contract import PROMPT, assert_problem, ledger_row

pytestmark = pytest.mark.usefixtures("stack")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with hostile.hostile_upstream() as server:
        yield server


class Market:
    """A service with endpoints that each behave in one way, and a key for it."""

    def __init__(self, gateway: GatewayProcess, upstream: Any, *behaviours: str, **fields: Any) -> None:
        self.gateway = gateway
        self.upstream = upstream
        with transaction.atomic():  # the gateway hears of the service with its endpoints, or not at all
            self.service = factories.make_service(**fields)
            for order, behaviour in enumerate(behaviours):
                self.add(behaviour, order=order)
            _, self.text = factories.make_key(service=self.service)
        gateway.wait_for_service(self.service.id, self.text)

    def add(self, behaviour: str, service: Service | None = None, **fields: Any) -> None:
        host, port = self.upstream.server_address
        url = (
            f"http://127.0.0.1:{free_port()}/v1"
            if behaviour == "dead"
            else f"http://{host}:{port}/{behaviour}"
        )
        factories.make_endpoint(service or self.service, base_url=url, **fields)

    def consume(self, **more: Any) -> requests.Response:
        return self.gateway.consume(self.service.id, self.text, {**PROMPT, **more})

    def asked(self) -> list[str]:
        """What the upstream was asked since the last time."""
        calls = list(self.upstream.calls)
        self.upstream.calls.clear()
        return calls


@pytest.fixture
def market(lane_gateway: GatewayProcess, upstream: Any) -> Any:
    upstream.calls.clear()
    return lambda *behaviours, **fields: Market(lane_gateway, upstream, *behaviours, **fields)


def test_where_nothing_was_sent_the_next_endpoint_is_tried_at_once(market: Any) -> None:
    one = market("dead", "works")
    assert [one.consume().status_code for _ in range(3)] == [200] * 3
    assert one.asked() == ["works"] * 3


def test_who_says_later_is_asked_three_times_and_then_the_caller_may_come_back(market: Any) -> None:
    one = market("later")
    answer = one.consume()
    assert_problem(answer, 503, "upstream_busy")
    assert answer.headers["Retry-After"] == "1"
    assert "x-should-retry" not in answer.headers, "nothing was done, so a repetition is paid once"
    assert one.asked() == ["later"] * 3
    row = ledger_row(answer.headers["X-Request-Id"])
    assert (row.status, row.cost_amount) == ("error", Decimal(0))


def test_another_endpoint_serves_while_one_says_later(market: Any) -> None:
    one = market("unavailable", "works")
    assert one.consume().status_code == 200
    assert one.asked() == ["unavailable", "works"]


def test_work_that_may_have_been_done_is_not_asked_for_elsewhere(market: Any) -> None:
    one = market("fails", "works")
    answer = one.consume()
    assert_problem(answer, 502, "upstream_failed")
    assert answer.headers["x-should-retry"] == "false"
    assert one.asked() == ["fails"]


def test_five_failures_open_the_breaker_and_the_next_endpoint_serves(market: Any) -> None:
    one = market("fails", "works")
    assert [one.consume().status_code for _ in range(8)] == [502] * 5 + [200] * 3
    assert one.asked() == ["fails"] * 5 + ["works"] * 3
    first = one.service.endpoints.get(order=0)
    metrics = one.gateway.get("/metrics").text
    assert f'upstream_endpoint_state{{endpoint_id="{first.id}",service_id="{one.service.id}"}} 2.0' in metrics


def test_an_open_breaker_refuses_at_once_and_says_when_to_come_back(market: Any) -> None:
    one = market("fails")
    for _ in range(5):
        one.consume()
    one.asked()
    answer = one.consume()
    assert_problem(answer, 503, "upstream_busy")
    assert 1 <= int(answer.headers["Retry-After"]) <= 5
    assert one.asked() == []


def test_mistakes_of_callers_open_no_breaker(market: Any) -> None:
    one = market("refuses")
    assert [one.consume().status_code for _ in range(7)] == [422] * 7
    assert one.asked() == ["refuses"] * 7


def test_a_fallback_serves_at_the_price_and_on_the_record_of_the_service_asked_for(market: Any) -> None:
    one = market("dead", pricing=factories.PER_REQUEST)
    other = factories.make_service()
    one.add("works", other)
    Service.objects.filter(id=one.service.id).update(fallback=other)
    one.gateway.catch_up()
    assert one.consume().status_code == 200
    assert one.asked() == ["works"]
    row = UsageRecord.objects.filter(service_id=one.service.id, status="success")
    wait_for(row.exists)
    assert row.get().cost_amount == Decimal("0.01")
    assert not UsageRecord.objects.filter(service_id=other.id).exists()


def test_data_that_a_fallback_may_not_see_does_not_go_there(market: Any) -> None:
    clearance = Service.Clearance
    one = market("dead", clearance=clearance.RESTRICTED)
    other = factories.make_service(clearance=clearance.PUBLIC)
    one.add("works", other)
    Service.objects.filter(id=one.service.id).update(fallback=other)
    one.gateway.catch_up()  # waiting for a call that is served could open the breaker of the one that is dead
    assert one.consume(metadata={"data_classification": "public"}).status_code == 200
    one.asked()
    answer = one.consume(metadata={"data_classification": "restricted"})
    assert_problem(answer, 502, "upstream_failed")
    assert one.asked() == []


@pytest.mark.parametrize(
    ("behaviour", "fields"),
    [("hang", {"first_byte_seconds": 1}), ("drip", {"idle_seconds": 1, "deadline_seconds": 2})],
)
def test_deadlines_of_the_service_end_a_call(market: Any, behaviour: str, fields: dict[str, int]) -> None:
    one = market(behaviour, **fields)
    began = time.monotonic()
    answer = one.consume()
    assert_problem(answer, 504, "deadline_exceeded")
    assert time.monotonic() - began < 10, "the upstream would have gone on for longer"


def test_a_stream_that_falls_silent_ends_by_the_services_own_deadline(market: Any) -> None:
    answer = market("stream-hang", idle_seconds=1).consume(stream=True)
    assert answer.text.count("one ") == 8
    assert '"code":"deadline_exceeded"' in answer.text
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize(
    ("mode", "behaviour", "tokens", "source"),
    [("cancel", "stream-hang", 9, "estimated"), ("drain", "stream-slowly", 10, "reported")],
)
def test_a_client_that_goes_away_is_charged_as_the_service_says(
    market: Any, mode: str, behaviour: str, tokens: int, source: str
) -> None:
    one = market(behaviour, on_client_gone=mode)
    url = f"{one.gateway.url}/api/v1/consume/{one.service.id}"
    headers = {"Authorization": f"Bearer {one.text}"}
    body = {**PROMPT, "stream": True}
    with patiently(lambda: requests.post(url, json=body, headers=headers, stream=True, timeout=20)) as answer:
        assert next(answer.iter_content(10))
    records = UsageRecord.objects.filter(service_id=one.service.id)
    wait_for(records.exists)
    row = records.get()
    assert (row.status, row.error) == ("cancelled", {"code": "cancelled"})
    assert (row.usage["usage_source"], row.usage["completion_tokens"]) == (source, tokens)


def test_an_upstream_gets_its_own_credential_and_nothing_of_the_callers(market: Any) -> None:
    one = market()
    one.add("works", credential="upstream-secret-7")
    one.gateway.catch_up()
    assert one.consume().status_code == 200
    head = one.upstream.heads["works"].lower()
    assert "authorization: bearer upstream-secret-7" in head
    assert one.text.lower() not in head
    assert "cookie" not in head
    names = {line.partition(":")[0] for line in head.splitlines()[1:]}
    assert names == {
        "host", "authorization", "content-type", "accept", "accept-encoding", "user-agent", "x-request-id",
        "content-length",
    }  # fmt: skip


def test_a_redirect_takes_no_credential_anywhere(market: Any) -> None:
    one = market()
    one.add("redirect", credential="upstream-secret-8")
    one.gateway.catch_up()
    assert one.consume().status_code == 502
    assert one.asked() == ["redirect"]
