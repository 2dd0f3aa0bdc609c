"""How soon a revoked key is refused by all of two gateways. ``python -m bench.revocation [trials]``

Each trial makes a key, uses it at both gateways so that both hold it, revokes it, and calls both without a pause until
each has refused. The time is from the commit of the revocation to the last call that was still accepted, or to the
first refusal where none was.
"""

import http.client
import statistics
import sys
import threading
import time
import uuid
from typing import Any

from bench.own_servers import gateways, servers

GATEWAYS = 2
BODY = b'{"prompt": "Hello"}'
#: A service that is not there: 404 tells that the key was accepted, 403 that it was not.
PATH = f"/api/v1/consume/{uuid.uuid4()}"


def accepted(connection: http.client.HTTPConnection, text: str) -> bool:
    connection.request(
        "POST", PATH, BODY, {"Authorization": f"Bearer {text}", "Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    answer.read()
    if answer.status not in {403, 404}:
        raise AssertionError(f"status {answer.status}")
    return answer.status == 404


def until_refused(connection: http.client.HTTPConnection, text: str, times: list[float]) -> None:
    """Append when the first refusal came."""
    while accepted(connection, text):
        pass
    times.append(time.perf_counter())


def trial(connections: list[http.client.HTTPConnection], consumer: Any) -> float:
    """Seconds from the commit until every gateway refuses."""
    from keys.issuing import revoke_key
    from tests.factories import make_key

    key, text = make_key(consumer, every_service=True)
    if not all(accepted(connection, text) for connection in connections):
        raise AssertionError("a good key was refused")
    times: list[float] = []
    threads = [
        threading.Thread(target=until_refused, args=(connection, text, times)) for connection in connections
    ]
    for thread in threads:
        thread.start()
    revoke_key(key=key, actor="bench")
    committed_at = time.perf_counter()
    for thread in threads:
        thread.join()
    return max(times) - committed_at


def main() -> int:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with servers() as folder:
        import django

        django.setup()
        from tests.factories import make_consumer

        with gateways(GATEWAYS, folder) as ports:
            connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=10) for port in ports]
            consumer = make_consumer()
            seconds = sorted(trial(connections, consumer) for _ in range(trials))
    p50, p99 = statistics.median(seconds), seconds[max(0, int(len(seconds) * 0.99) - 1)]
    sys.stdout.write(
        f"{trials} trials, {GATEWAYS} gateways: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, "
        f"worst {seconds[-1] * 1000:.1f} ms (under 1000)\n"
    )
    return 0 if p99 < 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
