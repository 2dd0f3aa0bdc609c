"""What a bucket of requests gets back of a call that was let in and never left for the upstream.

Not always the whole request: had it never been counted, the bucket might have become full since and have taken nothing
more. Giving that back as well would let in more calls at once than the bucket holds.
"""

from quotas.limits import REQUESTS, LimitSet
from quotas.refusals import Rate

#: Moments are whole milliseconds, and so is the time until a bucket is full.
_ROUNDING_MS = 2


def requests_back(limits: LimitSet, rate: Rate, *, elapsed_ms: int) -> tuple[float | str, ...]:
    """As ``release.lua`` takes it: of the tier's bucket; then of each further one its field, and how much of it.

    ``rate``: as the call was let in with; ``elapsed_ms``: since then, or longer.
    """
    further = [limit for limit in limits.further if limit.kind == REQUESTS]
    sizes = [limits.requests_per_second, *(limit.value for limit in further)]
    # Of several buckets ``rate`` does not say which one it tells of: each may have been full.
    full_in_ms = rate.full_in_ms if len(sizes) - sizes.count(None) == 1 else None
    parts = [0.0 if size is None else _part(size, full_in_ms or 1000 / size, elapsed_ms) for size in sizes]
    of_further = [
        told for limit, part in zip(further, parts[1:], strict=True) for told in (limit.field, part)
    ]
    return parts[0], *of_further


def _part(size: int, full_in_ms: float, elapsed_ms: int) -> float:
    """Of one request. ``full_in_ms``: from when it was let in, had nothing else come."""
    return max(0.0, min(1.0, (full_in_ms - elapsed_ms - _ROUNDING_MS) * size / 1000))
