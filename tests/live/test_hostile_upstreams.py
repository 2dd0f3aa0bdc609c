"""Every upstream may misbehave: a documented answer in time, and a record that says what was charged."""

import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import requests

from keys.models import ApiKey
from metering.models import UsageRecord
from tests import factories
from tests.harness import hostile
from tests.harness.waiting import wait_for
from tests.live.stack import GatewayProcess, Stack, patiently
from tests.live.test_contract import PROMPT, assert_problem, counters, ledger_row


@pytest.fixture(scope="module")
def upstream() -> Iterator[Any]:
    with hostile.hostile_upstream() as server:
        yield server


class Case:
    """A service whose upstream behaves in one way, and a key for it."""

    def __init__(self, gateway: GatewayProcess, upstream: Any, behaviour: str, **fields: Any) -> None:
        host, port = upstream.server_address
        self.gateway = gateway
        self.service = factories.make_service(endpoint=f"http://{host}:{port}/{behaviour}", **fields)
        self.key, self.text = factories.make_key(service=self.service)
        gateway.wait_for_service(self.service.id, self.text)

    def consume(self, **more: Any) -> requests.Response:
        return self.gateway.consume(self.service.id, self.text, {**PROMPT, **more})

    def row(self) -> UsageRecord:
        return the_row(self.key)


def the_row(key: ApiKey) -> UsageRecord:
    wait_for(lambda: UsageRecord.objects.filter(api_key_id=key.id).exists())
    return UsageRecord.objects.get(api_key_id=key.id)


@pytest.mark.parametrize(
    ("behaviour", "status", "code"),
    [
        ("hang", 504, "deadline_exceeded"),
        ("drip", 504, "deadline_exceeded"),
        ("reset", 502, "upstream_failed"),
        ("reset-in-the-body", 502, "upstream_failed"),
        ("endless-body", 502, "upstream_failed"),
        ("garbage", 502, "upstream_failed"),
        ("not-http", 502, "upstream_failed"),
        ("empty", 502, "upstream_failed"),
        ("no-choices", 502, "upstream_failed"),
        ("wrong-types", 502, "upstream_failed"),
        ("deep", 502, "upstream_failed"),
        ("gzip-bomb", 502, "upstream_failed"),
        ("redirect", 502, "upstream_failed"),
        ("sse", 502, "upstream_failed"),
        ("nan-usage", 502, "upstream_failed"),
        ("no-content", 502, "upstream_failed"),
        ("reset-content", 502, "upstream_failed"),
        ("not-modified", 502, "upstream_failed"),
        ("length-short", 502, "upstream_failed"),
        ("length-long", 502, "upstream_failed"),
        ("many-headers", 502, "upstream_failed"),
        ("fails", 502, "upstream_failed"),
        ("refuses", 422, "upstream_rejected"),
    ],
)
def test_what_is_no_answer_is_told_in_time_and_costs_nothing(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, behaviour: str, status: int, code: str
) -> None:
    case = Case(lane_gateway, upstream, behaviour, deadline_seconds=1, pricing=factories.PER_REQUEST)
    began, before = time.monotonic(), len(upstream.calls)
    answer = case.consume()
    assert time.monotonic() - began < 10, "some upstreams would have gone on for longer"
    assert_problem(answer, status, code)
    assert b"secret" not in answer.content
    assert upstream.calls[before:] == [behaviour], "paid work is never repeated"
    row = ledger_row(answer.headers["X-Request-Id"])
    assert (row.status, row.total_tokens, row.cost_amount) == ("error", 0, Decimal(0))
    assert row.error == {"code": code}
    assert counters(stack, case.key, case.service) == {b"used": b"0", b"reserved": b"0"}


@pytest.mark.parametrize("name", hostile.USAGES)
def test_a_usage_that_cannot_be_is_bounded_and_flagged(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, name: str
) -> None:
    case = Case(lane_gateway, upstream, f"usage-{name}")
    answer = case.consume(max_tokens=20)
    assert answer.status_code == 200, answer.text
    row = case.row()
    assert row.usage["usage_source"] == ("clamped" if name in {"huge", "beyond"} else "estimated")
    assert 0 < row.usage["prompt_tokens"] <= len(PROMPT["prompt"]) + 64  # type: ignore[arg-type]
    assert 0 < row.usage["completion_tokens"] <= 20
    assert answer.json()["usage"]["total_tokens"] == row.total_tokens
    assert counters(stack, case.key, case.service)[b"used"] == str(row.total_tokens).encode()


@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ("stream-reset", "upstream_failed"),
        ("stream-cut", "upstream_failed"),
        ("stream-garbage", "upstream_failed"),
        ("stream-error", "upstream_failed"),
        ("stream-bare-error", "upstream_failed"),
        ("stream-endless-line", "upstream_failed"),
        ("stream-length-short", "upstream_failed"),
        ("stream-nan-usage", "upstream_failed"),
        ("stream-first-usage-alone", "upstream_failed"),
        ("stream-hang", "deadline_exceeded"),
    ],
)
def test_a_stream_that_breaks_off_never_looks_whole_and_what_was_delivered_is_charged(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, behaviour: str, code: str
) -> None:
    case = Case(lane_gateway, upstream, behaviour, stream_deadline_seconds=1)
    answer = case.consume(stream=True)
    assert answer.status_code == 200
    assert answer.text.count("one ") == 8
    assert "[DONE]" not in answer.text
    assert "secret" not in answer.text
    assert f'"code":"{code}"' in answer.text
    row = case.row()
    assert (row.status, row.error) == ("error", {"code": code})
    assert row.usage["usage_source"] == "estimated"
    assert row.usage["completion_tokens"] == 9, "eight words and the space after the last"
    assert row.cost_amount == Decimal("0.0001") * row.total_tokens
    assert counters(stack, case.key, case.service) == {
        b"used": str(row.total_tokens).encode(),
        b"reserved": b"0",
    }


@pytest.mark.parametrize("name", hostile.USAGES)
def test_a_usage_that_cannot_be_is_bounded_and_flagged_in_a_stream_too(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, name: str
) -> None:
    case = Case(lane_gateway, upstream, f"stream-usage-{name}")
    told = case.consume(max_tokens=20, stream=True).text
    row = case.row()
    assert (row.status, told.endswith("data: [DONE]\n\n")) == ("success", True)
    assert row.usage["usage_source"] == ("clamped" if name in {"huge", "beyond"} else "estimated")
    assert 0 < row.usage["prompt_tokens"] <= len(PROMPT["prompt"]) + 64  # type: ignore[arg-type]
    assert 0 < row.usage["completion_tokens"] <= 20
    used = {b"used": str(row.total_tokens).encode(), b"reserved": b"0"}
    assert counters(stack, case.key, case.service) == used


@pytest.mark.parametrize("behaviour", ["works", "no-content", "not-modified", "length-long"])
def test_what_is_no_stream_brings_nothing_and_costs_nothing(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, behaviour: str
) -> None:
    case = Case(lane_gateway, upstream, behaviour)
    answer = case.consume(stream=True)
    assert '"code":"upstream_failed"' in answer.text
    assert "[DONE]" not in answer.text
    row = case.row()
    assert (row.status, row.total_tokens, row.cost_amount) == ("error", 0, Decimal(0))
    assert counters(stack, case.key, case.service) == {b"used": b"0", b"reserved": b"0"}


def test_a_stream_without_usage_is_counted_and_flagged(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any
) -> None:
    case = Case(lane_gateway, upstream, "stream-without-usage")
    assert case.consume(stream=True).text.endswith("data: [DONE]\n\n")
    row = case.row()
    assert (row.status, row.usage["usage_source"], row.usage["completion_tokens"]) == (
        "success",
        "estimated",
        9,
    )


@pytest.mark.parametrize(
    "behaviour",
    [
        "stream-goes-on", "stream-unended", "stream-returns", "stream-mixed", "stream-usages", "stream-trailing",
        "stream-done-loosely",
    ],
)  # fmt: skip
def test_a_stream_ends_where_it_says_so_and_what_follows_is_nobodys(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any, behaviour: str
) -> None:
    case = Case(lane_gateway, upstream, behaviour)
    told = case.consume(stream=True).text
    assert told.endswith("data: [DONE]\n\n")
    assert (told.count("one "), told.count("two ")) == (1, 0)
    row = case.row()
    assert (row.status, row.usage["usage_source"], row.usage["completion_tokens"]) == (
        "success",
        "reported",
        4,
    )


def test_a_client_that_goes_away_ends_the_upstream_and_is_charged_for_what_it_got(
    stack: Stack, lane_gateway: GatewayProcess, upstream: Any
) -> None:
    case = Case(lane_gateway, upstream, "stream-hang", pricing=factories.PER_REQUEST)
    url = f"{lane_gateway.url}/api/v1/consume/{case.service.id}"
    headers = {"Authorization": f"Bearer {case.text}"}
    began = time.monotonic()
    body = {**PROMPT, "stream": True}
    with patiently(lambda: requests.post(url, json=body, headers=headers, stream=True, timeout=20)) as answer:
        assert next(answer.iter_content(10))
    row = case.row()
    assert time.monotonic() - began < 10, "the upstream would have gone on for longer"
    assert (row.status, row.error) == ("cancelled", {"code": "cancelled"})
    assert (row.usage["usage_source"], row.usage["completion_tokens"]) == ("estimated", 9)
    assert row.cost_amount == Decimal("0.01")
    assert counters(stack, case.key, case.service)[b"reserved"] == b"0"
