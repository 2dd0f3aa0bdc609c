"""How long it takes to read a large ledger: ``GET /api/v1/usage/{id}`` of thirty days, the admin's list, and all of it,
as every reconciliation does.

API and list go through the whole application in this process, by turns of many consumers; what a server's sockets take
is not in it. What the API says is compared with sums over the rows themselves.
"""

import datetime as dt
import time
from typing import Any

from bench.errors import BenchError
from bench.figures import Figure
from bench.usage_market import Market

CALLS, CALLERS, LISTS = 600, 40, 20
_DAYS = 30
_SUMS = """
    SELECT count(*), coalesce(sum(total_tokens), 0), coalesce(sum(cost_amount), 0) FROM usage_records
    WHERE consumer_id = %s AND service_id = %s AND "timestamp" >= %s AND "timestamp" < %s
"""


def measure(market: Market, what: str) -> list[Figure]:
    """Each where it is served: the API by gateways, the admin by the console."""
    from django.test import override_settings

    with override_settings(ROOT_URLCONF="config.urls"):
        usage = _usage(market, what)
    with override_settings(ROOT_URLCONF="config.console_urls", SECOND_FACTOR_REQUIRED=False):
        lists = _lists(market, what)
    return [usage, *lists, _books(what)]


def _books(what: str) -> Figure:
    """Ledger, rollups and quota periods compared. Reconciliation does it every five minutes."""
    from common import clock
    from finance import books
    from finance.snapshot import one_moment

    this = clock.month_of(clock.now())
    last = clock.month_of(clock.month_start(this) - dt.timedelta(days=1))
    started = time.perf_counter()
    with one_moment() as moment:
        _, differences = books.compare(moment, [last, this])
    took = time.perf_counter() - started
    if differences:
        raise BenchError(f"{len(differences)} differences, the first: {differences[0]}")
    return Figure(f"books compared, {what}", took, 300, 60, "s")


def _usage(market: Market, what: str) -> Figure:
    from django.test import Client

    from accounts.models import Consumer
    from catalog.models import Service
    from tests.factories import make_key

    asked: list[tuple[Any, str, dict[str, str]]] = []
    for key in market.keys[:: len(market.keys) // CALLERS]:
        consumer = Consumer.objects.get(id=key.consumer_id)
        service = Service.objects.get(id=key.services[0].id)
        text = make_key(consumer, service)[1]
        headers = {"Authorization": f"Bearer {text}"}
        asked.append((key, f"/api/v1/usage/{service.id}?days={_DAYS}", headers))
    client = Client(headers={"Host": "127.0.0.1"})
    for key, url, headers in asked:  # so that every key has been proven
        _check(key, _answer(client.get(url, headers=headers)).json())
    seconds = sorted(
        _timed(client, url, headers)
        for _, url, headers in (asked[number % CALLERS] for number in range(CALLS))
    )
    return Figure(f"GET usage of 30 days, p95, {what}", seconds[int(CALLS * 0.95)] * 1e3, 20, 20, "ms")


def _check(key: Any, told: dict[str, Any]) -> None:
    """Raises ``BenchError`` unless the API, and what it rounds its cost from, say what the rows add up to."""
    from django.db import connection

    from metering.usage import usage_statistics

    service_id = key.services[0].id
    used = usage_statistics(consumer_id=key.consumer_id, service_id=service_id, days=_DAYS)
    with connection.cursor() as cursor:
        cursor.execute(_SUMS, [key.consumer_id, service_id, used.period_start, used.period_end])
        rows = tuple(cursor.fetchone())
    if rows != (used.total_requests, used.total_tokens, used.total_cost):
        raise BenchError(f"rows add up to {rows}, and {used} is told")
    if rows[:2] != (told["total_requests"], told["total_tokens"]):
        raise BenchError(f"rows add up to {rows}, and {told} is answered")


def _lists(market: Market, what: str) -> list[Figure]:
    from django.test import Client

    from common import clock
    from tests.factories import make_user

    client = Client(headers={"Host": "127.0.0.1"})
    client.force_login(make_user(is_staff=True, is_superuser=True))
    url, today = "/admin/metering/usagerecord/", f"{clock.now():%Y-%m-%d}"
    pages = {
        "as it opens": url,
        "the last page": f"{url}?p=200",
        "of one consumer": f"{url}?of_consumer={market.keys[0].consumer_id}",
        "of one service, errors": f"{url}?service__id__exact={market.services[0].id}&status__exact=error",
        "of today": f"{url}?timestamp__gte={today}+00%3A00%3A00%2B00%3A00",
        "corrections, of which there are none": f"{url}?kind__exact=correction",
        "search for a consumer": f"{url}?q={market.keys[0].consumer_id}",
    }
    return [
        Figure(
            f"admin list {name}, worst of {LISTS}, {what}",
            max(_timed(client, page) for _ in range(LISTS)) * 1e3, 1_000, 1_000, "ms",
        )
        for name, page in pages.items()
    ]  # fmt: skip


def _timed(client: Any, url: str, headers: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    answer = client.get(url, headers=headers)
    took = time.perf_counter() - started
    _answer(answer)
    return took


def _answer(answer: Any) -> Any:
    if answer.status_code != 200:
        raise BenchError(f"{answer.status_code}: {answer.content[:300]!r}")
    return answer
