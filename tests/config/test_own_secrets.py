"""A process that serves people refuses to start on secrets that are in the source."""

import os
import subprocess
import sys

import pytest

from tests.harness.servers import ROOT


@pytest.mark.parametrize("entry", ["config.asgi", "config.wsgi"])
@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPERS", "CREDENTIAL_KEYS"])
def test_an_entry_without_a_secret_of_its_own_does_not_start(entry: str, name: str) -> None:
    given = {each: value for each, value in os.environ.items() if each != name}
    assert _load(entry, given).endswith(f"{name} is not set\n")


@pytest.mark.parametrize("entry", ["config.asgi", "config.wsgi"])
def test_an_entry_with_secrets_of_its_own_starts(entry: str) -> None:
    assert _load(entry, dict(os.environ)) == ""


def _load(entry: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import {entry}"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.stderr


@pytest.mark.parametrize("name", ["SECRET_KEY", "KEY_PEPPERS", "CREDENTIAL_KEYS"])
@pytest.mark.parametrize(
    "command",
    ["-m celery -A config worker --pool solo", "-m celery -A config beat", "manage.py drain_usage"],
    ids=["worker", "beat", "drain"],
)
def test_what_works_in_the_background_does_not_start_either(command: str, name: str) -> None:
    given = {each: value for each, value in os.environ.items() if each != name}
    done = subprocess.run(
        [sys.executable, *command.split()],
        env=given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"{name} is not set" in done.stderr


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
