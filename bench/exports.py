"""How fast, and in how much memory, usage is exported. ``python -m bench.exports [rows] [format …]``

Rows are made by the database itself: 200 consumers over this month. Every format is written by a
process of its own, whose largest resident memory is read when it ends.
"""

import os
import shutil
import subprocess
import sys
import time

from bench.errors import BenchError
from bench.own_servers import ROOT, servers

ROWS = 1_000_000

_FILL = """
    INSERT INTO usage_records (
        id, request_id, service_id, consumer_id, api_key_id, price_version_id, tier, "timestamp", duration_ms, usage,
        cost, total_tokens, cost_amount, currency, status, kind, settlement
    )
    SELECT id, id, service, consumer, key, version, 'enterprise', moment, 120,
        '{{"prompt_tokens":10,"completion_tokens":20,"total_tokens":30,"cached_tokens":0,"reasoning_tokens":0,
           "usage_source":"reported"}}', '{{"amount":0.003,"currency":"USD"}}', 30, 0.003, 'USD', 'success', 'usage',
        'lease'
    FROM (
        SELECT moment, (lpad(to_hex((extract(epoch FROM moment) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid AS id,
            (array[{consumers}]::uuid[])[1 + n % {count}] AS consumer, '{service}'::uuid AS service,
            '{key}'::uuid AS key, '{version}'::uuid AS version
        FROM (SELECT n, to_timestamp({start} + n * {step}) AS moment FROM generate_series(0, {rows} - 1) AS n) AS t
    ) AS made
"""


def fill(rows: int) -> None:
    """So many rows, from the first of this month until now."""
    from django.db import connection

    from common import clock
    from tests.factories import make_consumer, make_key, make_service

    consumers = [make_consumer() for _ in range(200)]
    service = make_service()
    key = make_key(consumers[0], service)[0]
    start, now = clock.month_start(clock.month_of(clock.now())).timestamp(), time.time()
    with connection.cursor() as cursor:
        ids = ",".join(f"'{consumer.id}'" for consumer in consumers)
        version = service.price_versions.get().id
        made = _FILL.format(
            consumers=ids, count=len(consumers), service=service.id, key=key.id, version=version,
            start=start, step=(now - start) / rows, rows=rows,
        )  # fmt: skip
        cursor.execute(made)
        cursor.execute("VACUUM ANALYZE usage_records")


def run(job_id: object) -> tuple[float, float]:
    """Seconds, and MB of the largest resident memory of a process that does it."""
    code = "import sys, django; django.setup(); from finance import exports; exports.run(sys.argv[1])"
    started = time.monotonic()
    worker = subprocess.Popen([sys.executable, "-c", code, str(job_id)], cwd=ROOT)
    _, status, used = os.wait4(worker.pid, 0)
    worker.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - started, used.ru_maxrss / 1000


def measure(name: str, rows: int) -> str:
    """One format, as a line of text. Raises ``BenchError`` where the file is not whole."""
    from common import clock
    from finance import exports
    from finance.models import ExportJob

    now = clock.now()
    job = exports.order(format=name, start=clock.month_start(clock.month_of(now)), end=now, actor="bench")
    seconds, megabytes = run(job.id)
    job.refresh_from_db()
    if job.state != ExportJob.State.DONE or job.manifest is None or job.manifest["rows"] != rows:
        raise BenchError(f"{name}: {job.state} {job.error}")
    shutil.rmtree(job.folder)
    return (
        f"{name}: {rows:,} rows in {seconds:.1f} s, {rows / seconds:,.0f} rows/s, {megabytes:.0f} MB of memory, "
        f"{job.manifest['bytes'] / 1e6:,.0f} MB of file, {job.manifest['totals']}"
    )


def main() -> int:
    arguments = sys.argv[1:]
    rows = int(arguments.pop(0)) if arguments else ROWS
    with servers() as folder:
        os.environ["EXPORT_DIR"] = str(folder / "exports")
        import django

        django.setup()
        fill(rows)
        for name in arguments or ["csv", "parquet"]:
            sys.stdout.write(measure(name, rows) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
