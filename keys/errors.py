"""Refusals about keys: those presented, and those that are managed."""

from common.errors import Forbidden, NotFound, Problem


class InvalidKey(Forbidden):
    """Unknown, mistyped, forged, revoked, expired, suspended, from a network it is not for: all look alike."""

    code, title = "invalid_api_key", "The API key is not valid"


class ScopeMissing(Forbidden):
    """The key is good, and not for this. Only its holder is told."""

    code, title = "scope_missing", "The API key has no scope for this"


class KeyUnknown(NotFound):
    """Absent, or of another consumer: the two look alike."""

    code, title = "key_not_found", "No such API key"


class OtherEnvironment(Forbidden):
    code, title = (
        "other_environment",
        "Test keys are for services marked for testing, live keys for the others",
    )


class KeyNotUsable(Problem):
    code, status, title = "api_key_not_usable", 409, "The API key is revoked or expired"


class KeyReplaced(Problem):
    code, status, title = (
        "api_key_replaced",
        409,
        "The API key was rotated already: rotate the one that replaced it",
    )


class TooManyFailures(Problem):
    """Secrets were guessed too often, from this address or for this id, whether or not there is such a key."""

    code, status, title = "too_many_failures", 429, "Too many API keys were not valid"


class ReportNotSigned(Forbidden):
    """No signature, one that does not fit, or a key that is not known: all look alike."""

    code, title = "report_not_signed", "The report has no signature that is known here"
