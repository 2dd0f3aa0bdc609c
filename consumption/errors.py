"""Refusals and failures of a call that are not the limits' or the key's."""

from common.errors import Forbidden, InvalidField, NotFound, Problem


class ServiceNotFound(NotFound):
    code, title = "service_not_found", "There is no such service"


class AccessDenied(Forbidden):
    code, title = "access_denied", "The key does not reach this service"


class PolicyDenied(Forbidden):
    code, title = "policy_violation", "A policy forbids this call"


class UpstreamFailed(Problem):
    code, status, title = "upstream_failed", 502, "The service failed to answer"


class UpstreamBusy(Problem):
    code, status, title = "upstream_busy", 503, "The service cannot take the call now"


class UpstreamRejected(Problem):
    code, status, title = "upstream_rejected", 422, "The service did not accept the request"


class NotSupported(InvalidField):
    code, title = "not_supported", "The service does not support this request"


class DeadlineExceeded(Problem):
    code, status, title = "deadline_exceeded", 504, "The service did not answer in time"


class ServiceSuspended(Problem):
    code, status, title = "service_suspended", 503, "The service is suspended"


class LeaseLost(Problem):
    code, status, title = "lease_lost", 503, "The call was cut: its reservation had ended"


class IdempotencyInFlight(Problem):
    code, status, title = "idempotency_in_flight", 409, "A call with this Idempotency-Key is running"


class IdempotencyKeyReused(InvalidField):
    code, title = "idempotency_key_reused", "This Idempotency-Key was used for another request"


class IdempotencyOutcomeOnly(Problem):
    """``outcome``: what the ledger says of the call."""

    code, status = "idempotency_outcome_only", 409
    title = "The call with this Idempotency-Key was made, and its answer is not kept"
