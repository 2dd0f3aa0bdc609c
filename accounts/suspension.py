"""Suspending a consumer, and letting it back in. While it is suspended nobody acts for it and no key of it works."""

from django.db import transaction

from accounts.models import Consumer
from audit import trail


def suspend_consumer(*, consumer: Consumer, actor: str, address: str | None = None) -> bool:
    """False where it is suspended already; then nothing is written."""
    return _move(consumer, Consumer.Status.SUSPENDED, "consumer_suspended", actor, address)


def reactivate_consumer(*, consumer: Consumer, actor: str, address: str | None = None) -> bool:
    """False where it is active already; then nothing is written."""
    return _move(consumer, Consumer.Status.ACTIVE, "consumer_reactivated", actor, address)


@transaction.atomic
def _move(consumer: Consumer, status: Consumer.Status, action: str, actor: str, address: str | None) -> bool:
    before = Consumer.objects.select_for_update().values_list("status", flat=True).get(id=consumer.id)
    if before == status:
        return False
    Consumer.objects.filter(id=consumer.id).update(status=status)
    consumer.status = status
    trail.record(
        actor=actor,
        action=action,
        target_type="consumer",
        target_id=consumer.id,
        before={"status": before},
        after={"status": status},
        address=address,
    )
    return True
