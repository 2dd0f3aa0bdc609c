"""wrk as the closed loop: so many connections, each with one call at a time."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import calls
from bench.calls import Target, body_of
from bench.errors import BenchError
from bench.process import Process

# Nothing new is sent for this long before wrk hangs up, so that it counts every call that the ledger counts.
REST_SECONDS = 1
SCRIPT = """
local ffi = require("ffi")
ffi.cdef[[
  typedef struct {{ long seconds; long nanoseconds; }} bench_time;
  int clock_gettime(int clock, bench_time *time);
]]
local time = ffi.new("bench_time")
local function now()
  ffi.C.clock_gettime(1, time)
  return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

local path = {path}
local bodies = {{ {bodies} }}
local calls = {{ {calls} }}
local requests, at, stop_at = {{}}, {start}, 0

function init(args)
  for i, call in ipairs(calls) do
    local headers = call[1]
    headers["Content-Type"] = "application/json"
    requests[i] = wrk.format("POST", path, headers, bodies[call[2]])
  end
  stop_at = now() + {seconds}
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function delay()
  if now() < stop_at then return 0 end
  return 3600000
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {{"requests": %d, "refused": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f}}\\n',
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


@dataclass(frozen=True)
class Load:
    """One closed loop: calls answered 200 and not, seconds in which they were sent, latency as wrk saw it."""

    answered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int = 0

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds


@dataclass(frozen=True)
class Cost:
    """A load, and the CPU time that who served it spent on it."""

    load: Load
    cpu_seconds: float

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU for one call."""
        return self.cpu_seconds / self.load.answered * 1e6

    @property
    def per_cpu_second(self) -> float:
        return self.load.answered / self.cpu_seconds


class Wrk:
    """One load, described by a script of its own below `folder`."""

    def __init__(
        self,
        folder: Path,
        target: Target,
        *,
        seconds: int,
        connections: int = 64,
        start: int = 0,
        rest: int = REST_SECONDS,
        most_refused: float = calls.MOST_REFUSED,
    ) -> None:
        self.name, self.seconds, self._rest, self._most_refused = target.name, seconds, rest, most_refused
        script = folder / f"{target.name}.lua"
        script.touch(mode=0o600)
        script.write_text(script_of(target, seconds=seconds, start=start))
        self._command = [
            binary(), "-t", "1", "-c", str(connections), "-d", f"{seconds + rest}s", "--timeout", "30s",
            "-s", str(script), target.url + target.path,
        ]  # fmt: skip

    def start(self) -> "Wrk":
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return self

    def result(self) -> Load:
        """Waits for its end. Raises BenchError where a call broke, or a larger part than allowed was refused."""
        try:
            said, _ = self._process.communicate(timeout=self.seconds + self._rest + 60)
        except BaseException:
            self._process.kill()
            raise
        found = [line for line in said.splitlines() if line.startswith("RESULT ")]
        if not found:
            raise BenchError(f"wrk against {self.name} said: {said.strip()[-500:]}")
        told = json.loads(found[0].removeprefix("RESULT "))
        answered = told["requests"] - told["refused"]
        if told["refused"] > told["requests"] * self._most_refused or told["broken"] or not answered:
            raise BenchError(f"{self.name} did not answer every call of wrk's with 200: {told}")
        return Load(answered, self.seconds, told["p50_ms"], told["p99_ms"], told["refused"])


def binary() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise BenchError("wrk is missing: it is in Debian's package wrk")
    return found


def version() -> str:
    """It tells it together with its usage, and fails."""
    said = subprocess.run([binary(), "-v"], capture_output=True, text=True, check=False).stdout
    return said.split()[1]


def script_of(target: Target, *, seconds: int, start: int) -> str:
    models = sorted({model for _, model in target.calls})
    numbers = {model: number for number, model in enumerate(models, 1)}
    calls = (
        "{{"
        + ", ".join(f"[{lua(name)}] = {lua(value)}" for name, value in headers.items())
        + f"}}, {numbers[model]}}}"
        for headers, model in target.calls
    )
    return SCRIPT.format(
        path=lua(target.path),
        bodies=", ".join(lua(body_of(model)) for model in models),
        calls=",\n".join(calls),
        seconds=seconds,
        start=start % len(target.calls),
    )


def lua(text: str) -> str:
    """A Lua string; what JSON escapes, Lua reads alike, since all here is ASCII."""
    return json.dumps(text)


def cost_of(
    folder: Path,
    target: Target,
    server: Process,
    *,
    seconds: int,
    connections: int = 64,
    rest: int = REST_SECONDS,
    most_refused: float = calls.MOST_REFUSED,
) -> Cost:
    """One load on one server, and what it cost it."""
    before = server.cpu_seconds()
    wrk = Wrk(folder, target, seconds=seconds, connections=connections, rest=rest, most_refused=most_refused)
    load = wrk.start().result()
    return Cost(load, server.cpu_seconds() - before)
