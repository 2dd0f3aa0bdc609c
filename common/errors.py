"""Every refusal is a class with a stable code and an HTTP status; one handler per edge turns it into an answer.

``detail`` is a fixed sentence: nothing that a caller typed or an upstream sent is ever echoed.
"""

from typing import Any, ClassVar


class Problem(Exception):
    """Base of all refusals.

    ``code``: stable, machine-readable. ``status``: the HTTP status. ``extra``: further members of the
    problem document (numbers and constants only). ``retry_after``: whole seconds, or None.
    ``reached_upstream``: the upstream may have worked, so that a repetition may be paid for twice.
    ``nothing_done``: the upstream has certainly not worked, so that the call's Idempotency-Key is free again.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str = "", *, retry_after: int | None = None, **extra: Any) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.retry_after = retry_after
        self.reached_upstream = False
        self.nothing_done = False
        self.extra = extra

    def document(self, request_id: str) -> dict[str, Any]:
        """The RFC 9457 problem document."""
        return {
            "type": f"urn:marketplace:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.extra,
        }


class Malformed(Problem):
    code, status, title = "malformed_request", 400, "The request could not be read"


class CredentialsMissing(Problem):
    code, status, title = "credentials_missing", 401, "No credentials were given"


class Forbidden(Problem):
    code, status, title = "forbidden", 403, "Not allowed"


class NotFound(Problem):
    code, status, title = "not_found", 404, "Not found"


class TooLarge(Problem):
    code, status, title = "body_too_large", 413, "The request body is too large"


class InvalidField(Problem):
    code, status, title = "invalid_field", 422, "A field is not valid"


class Unavailable(Problem):
    code, status, title = "unavailable", 503, "Not able to serve this now"
