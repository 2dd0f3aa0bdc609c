"""What a gateway does beside its calls."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from django.db import connection, connections

from consumption import runtime
from tests import factories


@pytest.mark.usefixtures("committed")
def test_a_service_that_comes_while_the_catalogue_is_read_is_known_with_its_price_or_not_at_all() -> None:
    factories.make_service("before")

    def published_meanwhile(execute: Any, statement: str, *rest: Any) -> Any:
        answer = execute(statement, *rest)
        if 'FROM "price_versions"' in statement:
            publishing = threading.Thread(target=publish)
            publishing.start()
            publishing.join()
        return answer

    with connection.execute_wrapper(published_meanwhile):
        loaded, _ = runtime.read_catalogue()
    assert {(offer.name, len(offer.prices)) for offer in loaded.offers.values()} == {("before", 1)}

    loaded, _ = runtime.read_catalogue()
    assert {(offer.name, len(offer.prices)) for offer in loaded.offers.values()} == {
        ("before", 1),
        ("new", 1),
    }


def publish() -> None:
    factories.make_service("new")
    connections.close_all()


async def test_work_that_fails_begins_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "BEGIN_AGAIN_SECONDS", 0.0)
    begun = 0
    again = asyncio.Event()

    async def work() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            raise ValueError("a defect")
        again.set()
        await asyncio.Event().wait()

    with caplog.at_level(logging.ERROR, "consumption.runtime"):
        kept = asyncio.create_task(runtime.kept_up(work))
        await asyncio.wait_for(again.wait(), 5)
    assert "work failed, and begins again" in caplog.text
    kept.cancel()
    with pytest.raises(asyncio.CancelledError):
        await kept
