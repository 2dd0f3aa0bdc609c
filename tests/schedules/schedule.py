"""What happens in a schedule: which calls are made when, and what breaks meanwhile. All of it follows from the seed."""

from dataclasses import dataclass
from random import Random
from typing import Literal

End = Literal["settled", "failed", "late", "handed in twice", "abandoned"]
ENDS: dict[End, int] = {"settled": 12, "failed": 2, "late": 2, "handed in twice": 2, "abandoned": 1}

STEPS = ("before-staging", "after-merge", "before-commit", "after-commit", "after-trim")
OPENING_STEPS = ("epoch-begun", "epoch-handed-in", "epoch-drained", "epoch-set")

#: What breaks, and how often in comparison.
FAULTS = {
    # The drain
    "a drain dies at a step": 6,
    "a drain dies while it opens the shards": 3,
    "a drain is killed": 3,
    "a drain is told to stop and started again": 2,
    "one drain more": 3,
    "a drain sleeps, and its session ends": 2,
    # PostgreSQL and the way to it
    "the answer to a COMMIT is lost": 4,
    "connections are cut": 2,
    "connections hang, and are cut": 2,
    "PostgreSQL cannot be reached": 2,
    "sessions are ended": 1,
    "a server process is killed": 2,
    "PostgreSQL stops in order": 1,
    "PostgreSQL stops at once": 2,
    "PostgreSQL is killed": 2,
    "the disk is full": 5,
    "rows are locked in the opposite order": 2,
    # Valkey
    "Valkey stalls": 1,
    "Valkey is restarted": 2,
    "Valkey is killed": 2,
    "Valkey is emptied": 2,
    "Valkey loses its files": 1,
    "Valkey comes back with older files": 1,
    # What comes in
    "poison": 2,
}
#: After these, what was not drained yet is gone, but for what gateways hand in again.
LOSSES = {"Valkey is emptied", "Valkey loses its files", "Valkey comes back with older files"}


@dataclass(frozen=True)
class PlannedCall:
    """A call of one consumer at one service; it begins ``at`` and takes ``lasts``, seconds."""

    at: float
    lasts: float
    consumer: int
    service: int
    end: End
    prompt: int
    completion: int
    cached: int


@dataclass(frozen=True)
class PlannedFault:
    at: float
    name: str
    seed: int

    @property
    def random(self) -> Random:
        """For what the fault itself leaves to chance."""
        return Random(self.seed)


@dataclass(frozen=True)
class Schedule:
    seed: int
    consumers: int
    services: int
    drains: int
    calls: tuple[PlannedCall, ...]
    faults: tuple[PlannedFault, ...]

    @property
    def loses(self) -> bool:
        return any(fault.name in LOSSES for fault in self.faults)

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {len(self.calls)} calls of {self.consumers} consumers at {self.services} services,"
            f" {self.drains} drains"
        )
        return "\n".join(
            [head, *(f"  {fault.at:.2f} s {fault.name} ({fault.seed})" for fault in self.faults)]
        )


def schedule(seed: int) -> Schedule:
    random = Random(seed)
    consumers, services = random.randint(1, 4), random.randint(1, 3)
    lasts = random.uniform(0.3, 0.7)
    return Schedule(
        seed=seed,
        consumers=consumers,
        services=services,
        drains=random.choice((1, 1, 1, 2, 3)),
        calls=tuple(_call(random, consumers, services, lasts) for _ in range(random.randint(40, 160))),
        faults=_faults(random, lasts),
    )


def _call(random: Random, consumers: int, services: int, lasts: float) -> PlannedCall:
    prompt = random.randint(0, 500)
    return PlannedCall(
        at=random.uniform(0.0, lasts),
        lasts=random.choice((0.0, random.uniform(0.0, 0.3))),
        consumer=random.randrange(consumers),
        service=random.randrange(services),
        end=random.choices(list(ENDS), weights=list(ENDS.values()))[0],
        prompt=prompt,
        completion=random.randint(0, 2_000),
        cached=random.randint(0, prompt),
    )


def _faults(random: Random, lasts: float) -> tuple[PlannedFault, ...]:
    names = random.choices(list(FAULTS), weights=list(FAULTS.values()), k=random.randint(2, 6))
    times = sorted(random.uniform(0.0, lasts) for _ in names)
    return tuple(
        PlannedFault(at, name, random.randrange(2**32)) for at, name in zip(times, names, strict=True)
    )
