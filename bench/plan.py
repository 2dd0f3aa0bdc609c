"""How long and how often a run measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Counts and seconds. The default fits into ten minutes with everything that is started around it."""

    rounds: int = 3
    seconds: int = 4
    latency_pairs: int = 5
    latency_seconds: float = 6.0
    wrong_key_pairs: int = 3
    wrong_key_seconds: float = 5.0
    full_speed_rounds: int = 3
    full_speed_seconds: float = 5.0
    first_chunk_seconds: float = 12.0
    open_streams: int = 9000
    opened_per_second: int = 600
    hold_seconds: float = 15.0
    rates: tuple[int, ...] = ()


FULL = Plan()
# `make bench-scale`: the same for longer, and latency at more rates.
SCALE = Plan(
    rounds=8,
    seconds=10,
    latency_pairs=9,
    latency_seconds=20.0,
    wrong_key_pairs=5,
    wrong_key_seconds=20.0,
    full_speed_rounds=5,
    full_speed_seconds=15.0,
    first_chunk_seconds=40.0,
    hold_seconds=120.0,
    rates=(100, 500, 2000, 3000, 4000),
)
