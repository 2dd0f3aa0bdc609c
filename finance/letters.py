"""Letters to everybody in ``finance``, of what a person has to look at."""

import logging
import smtplib

from django.conf import settings
from django.core.mail import send_mail

from accounts.models import User

log = logging.getLogger(__name__)

_FINANCE = "finance"


def write_to_finance(subject: str, lines: list[str]) -> bool:
    """Whether it was sent; not where there is nobody to write to, or no way."""
    people = User.objects.filter(is_active=True, groups__name=_FINANCE).exclude(email="")
    addresses = list(people.values_list("email", flat=True))
    if not addresses:
        return False
    try:
        send_mail(subject, "\n".join([*lines, "", settings.CONSOLE_URL]), None, addresses)
    except (smtplib.SMTPException, OSError) as error:
        log.warning("finance could not be written to: %s", type(error).__name__)
        return False
    return True
