"""The headers that every answer has, whatever its dialect."""

import math

import msgspec

from common.errors import Problem
from consumption.call import Call, Terms
from consumption.dialects.base import Answer

Headers = list[tuple[str, str]]


def served_headers(call: Call, terms: Terms) -> Headers:
    """Of an answer that was paid for: a whole one or a stream."""
    headers = _request_id(call) + _rate(call)
    if terms.offer.deprecated:
        headers.append(("deprecation", "true"))
    return headers


def _rate(call: Call) -> Headers:
    """Of every answer that comes after limits were asked."""
    rate = call.rate
    if rate is None:
        return []
    return [
        ("ratelimit-limit", str(rate.limit)),
        ("ratelimit-remaining", str(rate.left)),
        ("ratelimit-reset", str(math.ceil(rate.full_in_ms / 1000))),
    ]


def _request_id(call: Call, id_: str = "") -> Headers:
    own_name = call.dialect.request_id_header
    headers = [("x-request-id", id_ or call.id)]
    if own_name is not None:
        headers.append((own_name, id_ or call.id))
    return headers


def refusal(call: Call, error: Problem, *, request_id: str = "") -> Answer:
    """A refusal or failure in the call's dialect. ``request_id``: of the call that it tells of, where it is another."""
    answer = call.dialect.problem(error, request_id or call.id)
    headers = _request_id(call, request_id) + _rate(call)
    if error.retry_after is not None:
        headers.append(("retry-after", str(error.retry_after)))
    if error.reached_upstream:
        # The official clients repeat every 5xx by themselves, and would pay twice.
        headers.append(("x-should-retry", "false"))
    if answer.status == 401:
        headers.append(("www-authenticate", 'Bearer realm="marketplace"'))
    return msgspec.structs.replace(answer, headers=answer.headers + headers)
