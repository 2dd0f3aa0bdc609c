"""The headers that every answer has, whatever its dialect."""

import msgspec

from common.errors import Problem
from consumption.call import Call, Terms
from consumption.dialects.base import Answer

Headers = list[tuple[str, str]]


def served_headers(call: Call, terms: Terms) -> Headers:
    """Of an answer that was paid for: a whole one or a stream."""
    headers = _request_id(call, call.id)
    _add_rate(headers, call)
    if terms.offer.deprecated:
        headers.append(("deprecation", "true"))
    return headers


def _add_rate(headers: Headers, call: Call) -> None:
    """Of every answer that comes after limits were asked."""
    rate = call.rate
    if rate is not None:
        headers += (
            ("ratelimit-limit", str(rate.limit)),
            ("ratelimit-remaining", str(rate.left)),
            ("ratelimit-reset", str(-(-rate.full_in_ms // 1000))),
        )


def _request_id(call: Call, id_: str) -> Headers:
    own_name = call.dialect.request_id_header
    return [("x-request-id", id_)] if own_name is None else [("x-request-id", id_), (own_name, id_)]


def refusal(call: Call, error: Problem, *, request_id: str = "") -> Answer:
    """A refusal or failure in the call's dialect. ``request_id``: of the call that it tells of, where it is another."""
    id_ = request_id or call.id
    answer = call.dialect.problem(error, id_)
    headers = _request_id(call, id_)
    _add_rate(headers, call)
    if error.retry_after is not None:
        headers.append(("retry-after", str(error.retry_after)))
    if error.reached_upstream:
        # The official clients repeat every 5xx by themselves, and would pay twice.
        headers.append(("x-should-retry", "false"))
    if answer.status == 401:
        headers.append(("www-authenticate", 'Bearer realm="marketplace"'))
    return msgspec.structs.replace(answer, headers=answer.headers + headers)
