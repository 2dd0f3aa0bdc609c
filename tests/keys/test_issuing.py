"""Issuing races with what an operator does meanwhile."""

import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from audit.models import AuditEntry
from catalog.errors import TierTooHigh
from catalog.models import Entitlement, Tier
from keys.issuing import issue_key, revoke_key
from keys.models import ApiKey
from tests.committed import audit_trail_may_be_emptied, committed
from tests.factories import make_entitlement, make_key, make_tier
from tests.telling import told_by_the_application

__all__ = ["audit_trail_may_be_emptied", "committed"]

pytestmark = pytest.mark.usefixtures("committed")


def in_thread(work: Callable[[], None]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_key_is_not_issued_at_a_tier_that_is_being_taken_away() -> None:
    make_tier("basic")
    entitled = make_entitlement(tier="enterprise")
    refused: list[type[Exception]] = []

    def issue() -> None:
        try:
            issue_key(
                consumer=entitled.consumer,
                service=entitled.service,
                tier=Tier.objects.get(name="enterprise"),
                actor="test",
            )
        except TierTooHigh as error:
            refused.append(type(error))

    with transaction.atomic():
        Entitlement.objects.filter(pk=entitled.pk).update(tier="basic")
        issuing = in_thread(issue)
        issuing.join(0.5)
        assert issuing.is_alive()  # it waits for this transaction
    issuing.join(10)
    assert refused == [TierTooHigh]
    assert not ApiKey.objects.exists()
    assert not told_by_the_application().exists()


def test_a_key_is_revoked_once_however_many_try() -> None:
    key, _ = make_key()
    done: list[bool] = []
    together = threading.Barrier(4)

    def revoke() -> None:
        mine = ApiKey.objects.get(id=key.id)
        together.wait(10)
        done.append(revoke_key(key=mine, actor="test"))

    for thread in [in_thread(revoke) for _ in range(4)]:
        thread.join(10)
    assert sorted(done) == [False, False, False, True]
    assert AuditEntry.objects.filter(action="api_key_revoked").count() == 1
