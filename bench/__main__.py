"""`python -m bench`. Exit code 0: the run was valid, whatever the figures are."""

import argparse
import sys
from collections.abc import Callable

from bench.cores import prepare_machine
from bench.errors import BenchError
from bench.full import RESULTS, Run
from bench.plan import FULL, SCALE
from bench.quick import quick
from bench.soak import soak
from devstack.errors import DevstackError
from devstack.layout import ROOT
from devstack.lock import FolderLock

FOLDER = ROOT / "var" / "bench"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="How fast the gateway is, beside others.")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--quick", action="store_true", help="CPU of one call, ours and nginx, in a minute")
    kind.add_argument("--scale", action="store_true", help="everything for longer, at more rates")
    kind.add_argument("--soak", action="store_true", help="full load for --minutes, then SIGTERM under load")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the soak (10)")
    return parser.parse_args(arguments)


def chosen(options: argparse.Namespace) -> Callable[[], None]:
    if options.quick:
        return lambda: quick(FOLDER)
    if options.soak:
        return lambda: soak(FOLDER, minutes=options.minutes)
    results = ROOT / "bench" / ("scale-" + RESULTS if options.scale else RESULTS)
    return Run(FOLDER, results, SCALE if options.scale else FULL).run


def main(arguments: list[str]) -> int:
    run = chosen(parse(arguments))
    lock = FolderLock(FOLDER)
    try:
        prepare_machine()
        lock.acquire()
        run()
    except (BenchError, DevstackError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 130
    finally:
        lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
