"""A process that serves people refuses to start on secrets that are in the source."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from common import own_secrets
from tests.harness.servers import ROOT

WRONG: dict[str, Callable[[Any], Any]] = {
    "SECRET_KEY": lambda settings: settings.KNOWN_SECRET_KEY,
    "KEY_PEPPERS": lambda settings: {"1": settings.KNOWN_PEPPER, "2": "own"},
    "CREDENTIAL_KEYS": lambda _: [],
}


@pytest.mark.parametrize("name", WRONG)
def test_every_secret_has_to_be_of_its_own(settings: Any, name: str) -> None:
    own_secrets.require()
    setattr(settings, name, WRONG[name](settings))
    with pytest.raises(ImproperlyConfigured, match=f"^{name} is not set$"):
        own_secrets.require()


STARTS = {
    "gateway": ["-c", "import config.asgi"],
    "console": ["-c", "import config.wsgi"],
    "worker": ["-m", "celery", "-A", "config", "worker", "--pool", "solo"],
    "beat": ["-m", "celery", "-A", "config", "beat"],
    "drain": ["manage.py", "drain_usage"],
}


@pytest.mark.parametrize("process", STARTS)
def test_no_process_starts_without_them(process: str) -> None:
    given = {name: value for name, value in os.environ.items() if name not in WRONG}
    done = subprocess.run(
        [sys.executable, *STARTS[process]],
        env=given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "SECRET_KEY is not set; KEY_PEPPERS is not set; CREDENTIAL_KEYS is not set" in done.stderr


def test_beat_with_secrets_of_its_own_starts() -> None:
    """It gets as far as saying so; there is no database for its schedule."""
    given = dict(os.environ) | {"DATABASE_URL": "postgres://127.0.0.1:1/nowhere"}
    with subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "config", "beat"],
        env=given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            said = next((line for line in process.stdout if "LocalTime" in line), "")
        finally:
            process.kill()
    assert said
