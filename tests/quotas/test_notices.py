"""Letters about budgets: at 80 and at 100 percent, once a period and threshold, whoever dies."""

import datetime as dt
import threading
from decimal import Decimal
from typing import Any

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend
from django.db import connection

from accounts.models import ConsumerBudget, Membership
from catalog.models import Entitlement
from common import clock
from metering import shards
from quotas import notices
from quotas.models import BudgetNotice
from quotas.tasks import send_budget_notices
from tests.factories import make_consumer, make_member, make_user
from tests.metering.market import Market


@pytest.fixture
def owned(market: Market) -> Market:
    """A market whose consumer has an owner with an address."""
    make_member(market.consumer, user=make_user(email="owner@example.org"))
    return market


def set_budget(market: Market, amount: str, *, period: str = "month", soft: bool = True) -> ConsumerBudget:
    return ConsumerBudget.objects.create(
        consumer=market.consumer, amount=amount, currency="USD", period=period, soft=soft
    )


def spend(market: Market, amount: str, *, period: str = "%Y%m", field: str = "m:USD") -> None:
    """The live counter says so much."""
    nano = int(Decimal(amount) * 10**9)
    market.valkey.hset(market.spent_key(f"{clock.now():{period}}"), field, str(nano))


def subjects() -> list[str]:
    return [str(letter.subject) for letter in mail.outbox]


def test_at_eighty_and_at_a_hundred_percent_and_once_each(owned: Market) -> None:
    set_budget(owned, "10")
    letters = []
    for spent in ("7.999999999", "8", "9.999999999", "10", "25"):
        spend(owned, spent)
        for _ in range(2):
            send_budget_notices()
        letters.append(len(mail.outbox))

    assert letters == [0, 1, 1, 2, 2]
    assert subjects() == [f"{share} % of the budget of {owned.consumer} is spent" for share in (80, 100)]
    assert mail.outbox[0].to == ["owner@example.org"]
    assert (
        f"8 USD of 10 USD that {owned.consumer} may cost in {clock.now():%B %Y} (UTC)" in mail.outbox[0].body
    )
    assert "nothing is refused" in mail.outbox[0].body
    rows = BudgetNotice.objects.order_by("id").values_list("threshold", "spent", "sent_to")
    to = ["owner@example.org"]
    assert list(rows) == [(80, Decimal(8), to), (100, Decimal(10), to)]


def test_where_both_are_due_only_the_last_is_sent(owned: Market) -> None:
    set_budget(owned, "10", soft=False)
    spend(owned, "10")
    send_budget_notices()
    assert [letter.subject[:5] for letter in mail.outbox] == ["100 %"]
    assert "are refused until" in mail.outbox[0].body


def test_every_kind_of_budget_is_told_of_and_the_next_period_anew(
    owned: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By day, of a key, and of a service as the tier has it; what is spent in another currency is not counted."""
    key, service = owned.key, owned.service
    set_budget(owned, "1", period="day")
    key.budget_amount, key.budget_currency, key.budget_period = Decimal(2), "USD", "month"
    key.save()
    tier = Entitlement.objects.get(consumer=owned.consumer, service=service).tier
    tier.budget_amount, tier.budget_currency, tier.budget_period = Decimal(3), "EUR", "month"
    tier.save()
    spend(owned, "1", period="%Y%m%d")
    spend(owned, "1.6", field=shards.money_field("USD", key.lineage))
    spend(owned, "2.5", field=shards.money_field("EUR", service.id))
    spend(owned, "100", field=shards.money_field("USD", service.id))
    send_budget_notices()

    found = BudgetNotice.objects.order_by("scope").values_list(
        "scope", "of", "period", "threshold", "currency"
    )
    assert list(found) == [
        ("consumer", owned.consumer.id, "day", 100, "USD"),
        ("key", key.lineage, "month", 80, "USD"),
        ("service", service.id, "month", 80, "EUR"),
    ]
    assert len(mail.outbox) == 3

    tomorrow = clock.now() + dt.timedelta(days=1)
    monkeypatch.setattr(clock, "now", lambda: tomorrow)
    send_budget_notices()
    assert len(mail.outbox) == 3
    spend(owned, "0.8", period="%Y%m%d")
    send_budget_notices()
    assert len(mail.outbox) == 4


def test_a_raised_budget_is_another_one_and_of_nothing_nobody_is_told(owned: Market) -> None:
    budget = set_budget(owned, "10")
    spend(owned, "10")
    for amount in ("10", "12", "100", "0"):
        ConsumerBudget.objects.filter(id=budget.id).update(amount=amount)
        send_budget_notices()
    assert [letter.subject[:5] for letter in mail.outbox] == ["100 %", "80 % "]


def test_owners_and_billing_members_alone_are_written_to_each_by_themselves(owned: Market) -> None:
    for role in Membership.Role.values:
        make_member(owned.consumer, role=role, user=make_user(email=f"{role}@example.org"))  # one owner twice
    make_member(owned.consumer, user=make_user(email="gone@example.org", is_active=False))
    make_member(make_consumer(), user=make_user(email="other@example.org"))
    make_member(owned.consumer, user=make_user(email=""))
    set_budget(owned, "1")
    spend(owned, "1")
    send_budget_notices()
    assert sorted(letter.to[0] for letter in mail.outbox) == ["billing@example.org", "owner@example.org"]


def test_many_senders_at_once_send_one_letter(owned: Market) -> None:
    set_budget(owned, "1")
    spend(owned, "1")
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        send_budget_notices()
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(mail.outbox) == BudgetNotice.objects.count() == 1


def test_a_letter_that_failed_is_tried_again_for_those_who_have_none(
    owned: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_member(owned.consumer, user=make_user(email="a@example.org"))
    set_budget(owned, "1")
    spend(owned, "1")
    deliver = EmailBackend.send_messages

    def refuse_owner(backend: Any, messages: Any) -> int:
        if messages[0].to == ["owner@example.org"]:
            raise OSError("no route")
        return deliver(backend, messages)

    with monkeypatch.context() as broken:
        broken.setattr(EmailBackend, "send_messages", refuse_owner)
        send_budget_notices()
    notice = BudgetNotice.objects.get()
    assert (notice.sent_to, notice.sent_at) == (["a@example.org"], None)
    send_budget_notices()
    assert len(mail.outbox) == 1  # the attempt may still be under way

    BudgetNotice.objects.update(attempted_at=clock.now() - notices.ATTEMPT - dt.timedelta(seconds=1))
    send_budget_notices()
    assert [letter.to for letter in mail.outbox] == [["a@example.org"], ["owner@example.org"]]
