"""What the ledger says of the load."""

import time
from dataclasses import dataclass

import psycopg2

from bench.errors import BenchError

DRAIN_SECONDS = 60.0
QUERY = """
    SELECT count(*), coalesce(sum((usage->>'total_tokens')::bigint), 0),
           count(*) FILTER (WHERE status <> 'success')
    FROM usage_records WHERE kind = 'usage'
"""


@dataclass(frozen=True)
class Ledger:
    """Sums over all of it: calls, tokens, and calls that did not end well."""

    calls: int
    tokens: int
    failed: int


def read_ledger(url: str) -> Ledger:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(QUERY)
            row = cursor.fetchone() or (0, 0, 0)
    finally:
        connection.close()
    return Ledger(*map(int, row))


class LedgerWatch:
    """Counts what was asked for, and compares it with what was recorded."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = read_ledger(url)
        self.calls = self.tokens = 0

    def expect(self, calls: int, tokens_each: int) -> None:
        """So many calls were answered 200."""
        self.calls += calls
        self.tokens += calls * tokens_each

    def recorded(self) -> Ledger:
        now, before = read_ledger(self._url), self._before
        return Ledger(now.calls - before.calls, now.tokens - before.tokens, now.failed - before.failed)

    def check(self) -> Ledger:
        """Wait for the drain. Raises BenchError unless calls and tokens are exactly those that were answered."""
        expected = Ledger(self.calls, self.tokens, 0)
        deadline = time.monotonic() + DRAIN_SECONDS
        while (found := self.recorded()).calls < expected.calls and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(0.5)  # what is too much would come a moment later
        found = self.recorded()
        if found != expected:
            raise BenchError(f"the ledger is wrong: it has {found}, and {expected} were answered")
        return found
