"""Refusals about what is for sale, and to whom."""

from common.errors import Forbidden, NotFound


class ServiceUnknown(NotFound):
    """Absent, or not listed: the two look alike."""

    code, title = "service_not_found", "No such service"


class NotEntitled(Forbidden):
    code, title = "access_denied", "The caller is not entitled to this service"


class NotASecondPerson(Forbidden):
    code, title = "not_a_second_person", "A price is approved by somebody other than who entered it"


class TierTooHigh(Forbidden):
    code, title = "tier_too_high", "The tier is higher than the entitlement allows"
