"""Known vulnerabilities of what is pinned: ``python -m devstack.vulnerabilities requirements.txt``.

One that is found is an error. Where the service that knows them does not answer, one line says so.
"""

import json
import subprocess
import sys
from typing import Any

#: Of the whole look-up: nobody waits longer for a check that may be skipped.
SECONDS = 10.0
#: What pip-audit says where it did not get through to the service.
UNREACHED = ("Could not connect", "ConnectionError", "Max retries", "timed out", "RequestException")


def main(path: str) -> int:
    """The exit code: 1 where something is vulnerable, or pip-audit itself fails."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--requirement", path]
    options = ["--format", "json", "--progress-spinner", "off", "--timeout", "3"]
    try:
        done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return _say("pip-audit: skipped, its service did not answer in time")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        if any(each in done.stderr for each in UNREACHED):
            return _say("pip-audit: skipped, its service cannot be reached")
        sys.stderr.write(done.stderr)
        return 1
    return report(found)


def report(found: list[dict[str, Any]]) -> int:
    """Say what pip-audit found: packages with ``vulns``, or with the ``skip_reason`` why they were not looked up."""
    for package in found:
        for flaw in package.get("vulns", ()):
            _say(f"{package['name']} {package['version']}: {flaw['id']}, mended in {flaw['fix_versions']}")
    known = [package for package in found if "skip_reason" not in package]
    if not known:
        return _say("pip-audit: skipped, its service knows none of the packages")
    vulnerable = sum(bool(package["vulns"]) for package in known)
    _say(f"pip-audit: {vulnerable} of {len(known)} packages vulnerable, {len(found) - len(known)} not known")
    return min(vulnerable, 1)


def _say(line: str) -> int:
    sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
