"""How fast live counters are set again from nothing, and compared. ``python -m bench.rebuild [pairs]``

Pairs of a consumer and a service are made by the database itself, five services a consumer, each used with one key in
two hours of this month. Valkey is empty; then ``manage.py rebuild_quotas`` runs as anybody runs it.
"""

import resource
import subprocess
import sys
import time
from typing import Any

from bench.errors import BenchError
from bench.own_servers import ROOT, servers

PAIRS = 1_000_000
SERVICES = 5
WANTED_SECONDS = 60.0

_ID = "(lpad(to_hex({of}), 8, '0') || '-0000-4000-8000-{kind:012d}')::uuid"
_CONSUMER, _KEY = _ID.format(of="c", kind=1), _ID.format(of="c", kind=2)
_FILL = f"""
    INSERT INTO consumers (id, name, status, residency, created_at)
    SELECT {_CONSUMER}, 'Consumer ' || c, 'active', '', now() FROM generate_series(1, {{consumers}}) AS c;

    INSERT INTO api_keys (id, public_id, key_hash, last4, name, consumer_id, tier, environment, scopes, lineage,
        generation, created_at, metadata)
    SELECT {_KEY}, 'p' || c, 'h' || c, '0000', '', {_CONSUMER}, '{{tier}}', 'live', array['consume'], {_KEY}, 0,
        now(), '{{{{}}}}' FROM generate_series(1, {{consumers}}) AS c;

    INSERT INTO quota_periods (consumer_id, service_id, month, used)
    SELECT {_CONSUMER}, s, '{{month}}', 2 * c FROM generate_series(1, {{consumers}}) AS c,
        unnest(array[{{services}}]::uuid[]) AS s;

    INSERT INTO usage_rollups (hour, consumer_id, service_id, api_key_id, price_version_id, tier, status, currency,
        requests, duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens,
        cost_amount)
    SELECT '{{month}}'::timestamp AT TIME ZONE 'UTC' + h * interval '1 hour', {_CONSUMER}, s, {_KEY}, '{{version}}',
        '{{tier}}', 'success', 'USD', 1, 100, c, 0, 0, 0, c, 0.000001 * c
    FROM generate_series(1, {{consumers}}) AS c, unnest(array[{{services}}]::uuid[]) AS s, generate_series(0, 1) AS h;

    INSERT INTO usage_daily_rollups (day, consumer_id, service_id, api_key_id, price_version_id, tier, status, currency,
        requests, duration_ms, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, total_tokens,
        cost_amount)
    SELECT (hour AT TIME ZONE 'UTC')::date, consumer_id, service_id, api_key_id, price_version_id, tier, status,
        currency, sum(requests), sum(duration_ms), sum(prompt_tokens), 0, 0, 0, sum(total_tokens), sum(cost_amount)
    FROM usage_rollups GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

    ANALYZE quota_periods; ANALYZE usage_daily_rollups; ANALYZE api_keys;
"""  # noqa: S608 - constants  # nosec B608


def fill(pairs: int) -> None:
    from django.db import connection

    from common import clock
    from tests.factories import make_service, make_tier

    services = [make_service() for _ in range(SERVICES)]
    with connection.cursor() as cursor:
        cursor.execute(
            _FILL.format(
                consumers=pairs // SERVICES,
                services=",".join(f"'{service.id}'" for service in services),
                version=services[0].price_versions.get().id,
                tier=make_tier("enterprise").name,
                month=clock.month_of(clock.now()),
            )
        )


def rebuild() -> str:
    """Seconds from the command's start to its end; and of CPU, which other work on the machine disturbs less."""
    started, before = time.monotonic(), _cpu()
    subprocess.run([sys.executable, "manage.py", "rebuild_quotas"], cwd=ROOT, check=True)
    seconds = time.monotonic() - started
    command, valkey = (after - earlier for after, earlier in zip(_cpu(), before, strict=True))
    return f"{seconds:.1f} s (CPU: command {command:.1f} s, Valkey {valkey:.1f} s)"


def _cpu() -> tuple[float, float]:
    """Seconds so far: of commands that have ended, and of Valkey."""
    from metering import valkey

    client = valkey.connect()
    info: Any = client.info("cpu")
    client.close()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime, info["used_cpu_user"] + info["used_cpu_sys"]


def check(pairs: int) -> None:
    """Raises ``BenchError`` unless Valkey has what the ledger has."""
    from common import clock
    from metering import valkey

    client = valkey.connect()
    found = [0, 0]
    for pattern in ("*:quota:*", f"*:spent:*:{clock.now():%Y%m}"):
        keys = list(client.scan_iter(pattern, count=10_000))
        for start in range(0, len(keys), 10_000):
            pipeline = client.pipeline(transaction=False)
            for key in keys[start : start + 10_000]:
                pipeline.hmget(key, "used", "m:USD")
            for tokens, nano in pipeline.execute():
                found[0] += int(tokens or 0)
                found[1] += int(nano or 0)
    numbers = pairs // SERVICES * (pairs // SERVICES + 1) // 2
    wanted = [2 * SERVICES * numbers, 2 * SERVICES * 1000 * numbers]
    if found != wanted:
        raise BenchError(f"counters have {found}, the ledger {wanted}")


def compare() -> str:
    """Seconds of a comparison in a process of its own. Raises ``BenchError`` where it finds something."""
    code = "import django; django.setup(); from quotas import sync; print(len(sync.sync_quotas()))"
    started, before = time.monotonic(), _cpu()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    if done.stdout != "0\n":
        raise BenchError(f"counters differ from the ledger: {done.stdout}")
    own, valkey = (after - earlier for after, earlier in zip(_cpu(), before, strict=True))
    return f"{time.monotonic() - started:.1f} s (CPU: its own {own:.1f} s, Valkey {valkey:.1f} s)"


def main() -> int:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS
    with servers():
        import django

        django.setup()
        fill(pairs)
        first = rebuild()
        check(pairs)
        compared = compare()
        again = rebuild()
        check(pairs)
    sys.stdout.write(
        f"{pairs:,} counters of a month from nothing: into an empty Valkey {first}, over counters that are there "
        f"{again}; wanted: under {WANTED_SECONDS:.0f} s a million. All compared with the ledger: {compared}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
