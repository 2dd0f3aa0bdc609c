"""`python -m bench`. Exit code 0: the run was valid, whatever the figures are."""

import argparse
import sys

from bench.cores import prepare_machine
from bench.errors import BenchError
from bench.quick import quick
from devstack.errors import DevstackError
from devstack.layout import ROOT
from devstack.lock import FolderLock

FOLDER = ROOT / "var" / "bench"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench", description="How fast the gateway is, beside others.")
    parser.add_argument(
        "--quick", action="store_true", help="CPU of one call, ours and nginx, in under a minute"
    )
    parser.parse_args(arguments)
    lock = FolderLock(FOLDER)
    try:
        prepare_machine()
        lock.acquire()
        quick(FOLDER)
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
