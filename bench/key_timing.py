"""Does the time of a refusal tell whether a key id exists? ``python -m bench.key_timing [samples]``

Welch's t-test over interleaved samples of an unknown id and a wrong secret, both with a right tag, the buckets of
failures off. |t| < 4.5 tells them apart no better than chance does.
"""

import asyncio
import math
import random
import statistics
import sys
import time

from bench.own_servers import servers

MOST_T = 4.5


async def refusal_seconds(ring: object, text: str) -> float:
    from common.errors import Forbidden
    from keys.keyring import Keyring

    assert isinstance(ring, Keyring)  # noqa: S101 - a measurement, not the product
    began = time.perf_counter()
    try:
        await ring.authenticate(text, "192.0.2.1")
    except Forbidden:
        return time.perf_counter() - began
    raise AssertionError("a wrong key was accepted")


async def sample(public_id: str, count: int) -> tuple[list[float], list[float]]:
    """Seconds of refusals: of unknown ids, of wrong secrets."""
    from keys.format import mint
    from keys.keyring import Keyring
    from keys.proofs import Proofs
    from tests.key_texts import text_of

    ring = Keyring(Proofs())
    unknown: list[float] = []
    wrong: list[float] = []
    for number in range(count + 50):
        pair = [(unknown, mint().text), (wrong, text_of(public_id))]
        random.shuffle(pair)
        for seconds, text in pair:
            took = await refusal_seconds(ring, text)
            if number >= 50:  # the first ones warm connections and caches
                seconds.append(took)
    ring.close()
    return unknown, wrong


def welch(one: list[float], other: list[float]) -> float:
    """Welch's t of two samples of unequal variance."""
    error = statistics.variance(one) / len(one) + statistics.variance(other) / len(other)
    return (statistics.fmean(one) - statistics.fmean(other)) / math.sqrt(error)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    with servers(KEY_FAILURE_BUCKETS="off"):
        import django

        django.setup()
        from tests.factories import make_key

        unknown, wrong = asyncio.run(sample(make_key()[0].public_id, count))
    t = welch(unknown, wrong)
    sys.stdout.write(
        f"{count} samples each: unknown id {statistics.fmean(unknown) * 1000:.3f} ms, "
        f"wrong secret {statistics.fmean(wrong) * 1000:.3f} ms, t = {t:.2f} (|t| < {MOST_T})\n"
    )
    return 0 if abs(t) < MOST_T else 1


if __name__ == "__main__":
    sys.exit(main())
