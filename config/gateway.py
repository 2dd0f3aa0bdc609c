"""The gateway's server: ``python -m config.gateway``. Several processes may share one port (``--workers``)."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
os.environ["PROCESS"] = "gateway"

import uvicorn


def lane(**options: Any) -> asyncio.Protocol:
    """uvicorn makes one for every connection, after it has loaded the application, and Django with it."""
    from consumption.lane import LaneProtocol

    return LaneProtocol(**options)


def main() -> None:
    """Serve until SIGTERM; then answer what has come, let streams end, and hand in what is not settled."""
    parser = argparse.ArgumentParser(prog="config.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 8000))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--drain-seconds", type=int, default=60, help="how long open streams may go on at SIGTERM"
    )
    options = parser.parse_args()
    # uvicorn stops in peace and then sends itself the signal once more: an end like any other, with exit code 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if options.workers == 1:
        _serve(options)
        return
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        os.environ["WORKERS_DIR"] = folder
        _serve(options)


def _serve(options: argparse.Namespace) -> None:
    uvicorn.run(
        "config.asgi:application",
        host=options.host,
        port=options.port,
        workers=options.workers,
        http=lane,  # type: ignore[arg-type]  # whatever makes a protocol will do
        ws="none",
        loop="uvloop",
        lifespan="on",
        backlog=4096,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=options.drain_seconds,
    )


if __name__ == "__main__":
    main()
