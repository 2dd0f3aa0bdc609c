"""The 200 of ``POST /consume`` and the problem documents, as bytes and headers, the same for every transport."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from catalog.pricing import Price, Tokens
from common.errors import Problem
from common.money import plain
from consumption.call import Call, Terms
from consumption.problems import MEDIA_TYPE
from consumption.upstream import Reply
from quotas.admission import Lease
from quotas.errors import RateLimited

_encode = msgspec.json.Encoder().encode
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. Header names are lower-case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def success(call: Call, terms: Terms, lease: Lease, reply: Reply, cost: Decimal) -> Answer:
    """The answer of a call that was served, priced and settled."""
    tokens = reply.tokens
    usage = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.total,
    }
    body = _encode(
        {
            "request_id": call.request_id,
            "response": {"choices": reply.choices},
            "usage": usage,
            "cost": {
                "amount": _number(cost),
                "currency": terms.price.price.currency,
                "breakdown": {**usage, **_rates(terms.price.price, tokens)},
            },
            "latency_ms": call.elapsed_ms,
        }
    )
    headers = [("content-type", _JSON), ("x-request-id", str(call.request_id)), ("x-cost", plain(cost))]
    headers += _rate_headers(lease)
    if terms.offer.deprecated:
        headers.append(("deprecation", "true"))
    return Answer(200, headers, body)


def problem(error: Problem, request_id: str) -> Answer:
    """The answer of a refusal or failure."""
    headers = [("content-type", MEDIA_TYPE), ("x-request-id", request_id)]
    if error.retry_after is not None:
        headers.append(("retry-after", str(error.retry_after)))
    if error.status == 401:
        headers.append(("www-authenticate", 'Bearer realm="marketplace"'))
    if isinstance(error, RateLimited):
        headers += [
            ("ratelimit-limit", str(error.extra["limit"])),
            ("ratelimit-remaining", str(error.extra["remaining"])),
            ("ratelimit-reset", str(error.retry_after)),
        ]
    return Answer(error.status, headers, _encode(error.document(request_id)))


def _number(amount: Decimal) -> msgspec.Raw:
    """A JSON number with all its digits and no exponent."""
    return msgspec.Raw(plain(amount).encode())


def _rates(price: Price, tokens: Tokens) -> dict[str, Any]:
    """The rates that made the cost; with rates by kind also the counts they were applied to."""
    if price.model == "per_request":
        return {"rate_per_request": _number(price.per_request)}
    if price.single:
        return {"rate_per_token": _number(price.rates["prompt"])}
    shown: dict[str, Any] = {"rates": {kind: _number(rate) for kind, rate in price.rates.items()}}
    if tokens.cached:
        shown["cached_tokens"] = tokens.cached
    if tokens.reasoning:
        shown["reasoning_tokens"] = tokens.reasoning
    return shown


def _rate_headers(lease: Lease) -> list[tuple[str, str]]:
    if lease.rate_limit is None:
        return []
    return [
        ("ratelimit-limit", str(lease.rate_limit)),
        ("ratelimit-remaining", str(lease.rate_left)),
        ("ratelimit-reset", str(math.ceil(lease.rate_full_in_ms / 1000))),
    ]
