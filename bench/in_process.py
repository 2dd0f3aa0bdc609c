"""The CPU of one paid call without any other process, this checkout's code beside another's, by turns.

``python -m bench.in_process [FOLDER] [--rounds N]``. FOLDER: the other checkout.

All of the gateway runs, on its own event loop; but clients, upstream and Valkey are a few lines in the same process,
which answer at once and always the same. What is left is our own code and the loop's, nothing of the kernel's. On a
machine with other work only the ratio is to be believed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bench.errors import BenchError
from bench.report import say
from devstack.layout import ROOT, made_secrets

ROUNDS = 100
CALLS = Path(__file__).with_name("in_process_calls.py")


class Version:
    """A process with one checkout's code, that serves a round of calls for every line it is given."""

    def __init__(self, checkout: Path, spool: str) -> None:
        self.checkout = checkout
        self.us: list[float] = []
        environment = {
            "PYTHONPATH": str(checkout), "PROCESS": "gateway", "SPOOL_DIR": spool, "PYTHONHASHSEED": "1",
            "UPSTREAM_ALLOWED_NETWORKS": "127.0.0.0/8", "DJANGO_SETTINGS_MODULE": "config.settings",
            "REDIS_URL": "redis://127.0.0.1:9", "DATABASE_URL": "postgres://127.0.0.1:9/none", **made_secrets(),
        }  # fmt: skip
        self._child = subprocess.Popen(
            [sys.executable, CALLS],
            cwd=checkout, env={**os.environ, **environment}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def round(self, calls: int) -> float:
        """Microseconds of CPU for a call."""
        if self._child.stdin is None or self._child.stdout is None:
            raise BenchError("the process has no pipes")
        self._child.stdin.write(f"{calls}\n")
        self._child.stdin.flush()
        told = self._child.stdout.readline()
        if not told:
            raise BenchError("the process with the calls has ended")
        return float(told)

    def stop(self) -> None:
        self._child.kill()
        self._child.wait()


def by_turns(versions: list[Version], rounds: int) -> None:
    for version in versions:
        version.round(1_000)
    for _ in range(rounds):
        for version in versions:
            version.us.append(version.round(1_000))
    for version in versions:
        tenth = statistics.quantiles(version.us, n=10)[0]
        say(f"{version.checkout}: {tenth:.1f} µs a call (10th percentile of {rounds} rounds)")
    if len(versions) == 2:
        ratios = [here / other for here, other in zip(*(version.us for version in versions), strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        say(f"here / other: median {median:.3f}, half of the rounds {low:.3f} to {high:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.in_process")
    parser.add_argument("other", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    checkouts = [ROOT, *([options.other.resolve()] if options.other else [])]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        versions = []
        for number, checkout in enumerate(checkouts):
            versions.append(Version(checkout, f"{folder}/spool-{number}"))
            stack.callback(versions[-1].stop)
        by_turns(versions, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
