"""Letters to owners and billing members: 80 or 100 % of a budget are spent.

A letter is a row first, one for each budget, period and threshold. Whoever sends it marks the attempt, sends, and
writes down to whom; one that was attempted and not finished is tried again after a while, and goes to whom it has not
gone yet. So none is lost, and one comes twice only where its sender died between sending and writing down.
"""

import datetime as dt
import logging
import smtplib
from decimal import Decimal

from django.core.mail import EmailMessage
from django.db.models import Q

from accounts.models import Membership
from common import clock, money
from metering import valkey
from quotas import budgets
from quotas.models import BudgetNotice

log = logging.getLogger(__name__)

#: Percent. The later, the further up: where both are due, only the last one says what is true.
THRESHOLDS = (100, 80)
#: After so long, an attempt that left no mark is taken for dead.
ATTEMPT = dt.timedelta(minutes=10)
#: Letters of one run.
MOST_LETTERS = 500
_ROLES = (Membership.Role.OWNER, Membership.Role.BILLING)


def write() -> None:
    """A row for every budget that has come to a threshold. Raises ``redis.RedisError``."""
    now = clock.now()
    client = valkey.connect()
    try:
        rows = [
            _notice(held, used, threshold, now)
            for held, used in budgets.spent(client, budgets.every_budget(), now)
            if (threshold := _reached(held, used))
        ]
    finally:
        client.close()
    BudgetNotice.objects.bulk_create(rows, ignore_conflicts=True, batch_size=1_000)


def _reached(held: budgets.Held, used: int) -> int | None:
    # Nobody needs to be told that a budget of nothing is spent.
    if held.budget.amount == 0:
        return None
    share = budgets.share(used, held.budget)
    return next((threshold for threshold in THRESHOLDS if share >= threshold), None)


def _notice(held: budgets.Held, used: int, threshold: int, at: dt.datetime) -> BudgetNotice:
    return BudgetNotice(
        consumer_id=held.consumer_id,
        scope=held.scope,
        of=held.of or held.consumer_id,
        name=held.name[:255],
        period=held.budget.period,
        begins_on=held.begins(at),
        amount=held.budget.amount,
        currency=held.budget.currency,
        soft=held.budget.soft,
        threshold=threshold,
        spent=Decimal(used) / money.NANO,
    )


def send() -> int:
    """Send what is written down; returns how many are done. Safe to run twice at once."""
    waiting = Q(attempted_at=None) | Q(attempted_at__lt=clock.now() - ATTEMPT)
    unsent = BudgetNotice.objects.filter(waiting, sent_at=None).order_by("id")
    return sum(_send_once(notice) for notice in unsent[:MOST_LETTERS])


def _send_once(notice: BudgetNotice) -> bool:
    row = BudgetNotice.objects.filter(id=notice.id, sent_at=None)
    if not row.filter(attempted_at=notice.attempted_at).update(attempted_at=clock.now()):
        return False  # another worker got there first
    members = Membership.objects.filter(consumer=notice.consumer_id, role__in=_ROLES, user__is_active=True)
    addresses = sorted(set(members.exclude(user__email="").values_list("user__email", flat=True)))
    if not addresses:
        log.warning("consumer %s has nobody to write to of a budget", notice.consumer_id)
    try:
        # One letter each: members need not see each other's addresses.
        for address in addresses:
            if address not in notice.sent_to:
                EmailMessage(_subject(notice), _body(notice), to=[address]).send()
                notice.sent_to.append(address)
                row.update(sent_to=notice.sent_to)
    except (OSError, smtplib.SMTPException) as error:
        log.warning("a letter about a budget was not sent: %s", type(error).__name__)
        return False
    row.update(sent_at=clock.now())
    return True


def _subject(notice: BudgetNotice) -> str:
    # A name is the consumer's own text; a subject is one line.
    name = " ".join(notice.name.split())
    return f"{notice.threshold} % of the budget of {name} is spent"


def _body(notice: BudgetNotice) -> str:
    when = f"{notice.begins_on:%B %Y}" if notice.period == "month" else f"{notice.begins_on:%Y-%m-%d}"
    effect = (
        "It is a soft budget: nothing is refused."
        if notice.soft
        else "Calls that may cost more than what is left are refused until the period ends or the budget is raised."
    )
    spent, amount = (f"{money.plain(each)} {notice.currency}" for each in (notice.spent, notice.amount))
    return f"{spent} of {amount} that {notice.name} may cost in {when} (UTC) are spent.\n{effect}\n"
