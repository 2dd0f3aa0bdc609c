"""The application's commands, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping

from tests.harness.servers import ROOT


def manage(*arguments: str, env: Mapping[str, str] | None = None, seconds: float = 120.0) -> str:
    """What `manage.py` printed. A failure is an AssertionError that carries its last words."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, (
        f"manage.py {' '.join(arguments)}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
    )
    return done.stdout
