"""The figures of the implementation report, its stages and its resources, beside ours.

The report's machine had four cores and 16 GB; its latency of the whole pipeline contains an upstream.
"""

from bench.figures import number, table
from bench.open_loop import Latencies
from bench.steps import StepTime

# Operation, the report's p50, p95 and p99 (ms), and which of our steps does it.
STAGES = (
    ("API key validation", 3, 12, 22, "authenticate"),
    ("-", None, None, None, "resolve"),
    ("Policy validation", 15, 45, 80, "policy"),
    ("Rate limit check", 1.5, 6, 12, "admit"),
    ("Quota check", 2, 8, 15, "admit"),
    ("-", None, None, None, "route"),
    ("Cost calculation", 0.3, 1.5, 3, "price"),
    ("Usage recording", 5, 18, 35, "settle"),
    ("Analytics streaming", 1, 2, 5, ""),
)
WHOLE = ("Complete pipeline", 45, 95, 145)
RESOURCES = (
    ("memory", "45 MB", "150 MB", "220 MB"),
    ("CPU", "5 %", "35 %", "65 %"),
    ("database connections", "10", "45", "85"),
    ("Redis / Valkey connections", "5", "20", "40"),
)


def stage_table(steps: list[StepTime], whole: Latencies) -> str:
    found = {step.step: step for step in steps}
    rows = [[WHOLE[0], *map(str, WHOLE[1:]), "all, the upstream's time included", *ours_whole(whole)]]
    for name, *reported, step in STAGES:
        told = found.pop(step, None) if step != "admit" or name != "Rate limit check" else found.get(step)
        ours = ["-"] * 3 if told is None else [number(told.p50), number(told.p95), number(told.p99)]
        label = step or "none: read from the journal, outside the call"
        rows.append([name, *("-" if value is None else str(value) for value in reported), label, *ours])
    rows += [["-", "-", "-", "-", name, *map(number, (s.p50, s.p95, s.p99))] for name, s in found.items()]
    return table(["report: ms", "p50", "p95", "p99", "ours: step, ms", "p50", "p95", "p99"], rows)


def ours_whole(whole: Latencies) -> list[str]:
    return [number(whole.at(share)) for share in (0.5, 0.95, 0.99)]


def resource_table(ours: dict[str, tuple[str, str, str]]) -> str:
    """`ours`: by the names of `RESOURCES`, idle, at 1,000 calls/s, and at full load of one core."""
    rows = [[name, *reported, *ours[name]] for name, *reported in RESOURCES]
    head = ["resource", "report: idle", "1,000/s", "10,000/s", "ours: idle", "1,000/s", "one core full"]
    return table(head, rows)
