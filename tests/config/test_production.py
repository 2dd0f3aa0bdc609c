"""Settings of an installation that people reach over TLS."""

import os
import subprocess
import sys

from tests.harness.servers import ROOT

OVER_TLS = {
    "CONSOLE_URL": "https://console.example.com",
    "ALLOWED_HOSTS": "api.example.com,console.example.com",
    "TRUSTED_PROXIES": "10.0.0.0/8",
}


def _manage(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env={**os.environ, **OVER_TLS, **more}, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_django_finds_nothing_to_warn_of() -> None:
    done = _manage("check", "--deploy", "--fail-level", "WARNING")
    assert (done.returncode, done.stdout) == (0, "System check identified no issues (0 silenced).\n"), (
        done.stderr
    )


def test_nor_in_the_gateway() -> None:
    done = _manage("check", "--deploy", "--fail-level", "WARNING", PROCESS="gateway")
    assert done.returncode == 0, done.stderr


def test_pages_are_served_over_tls_alone_and_the_inside_is_asked_without() -> None:
    asked = (
        "from django.test import Client;"
        "from django.conf import settings;"
        "c = Client(headers={'host': 'console.example.com'});"
        "r = c.get('/admin/login/'); print(r.status_code, r.headers.get('Location'));"
        "r = c.get('/admin/login/', headers={'x-forwarded-proto': 'https'});"
        "print(r.status_code, r.headers['Strict-Transport-Security'], r.cookies['console_csrf']['secure'])"
    )
    done = _manage("shell", "--no-imports", "-c", asked)
    assert done.stdout.splitlines() == [
        "301 https://console.example.com/admin/login/",
        "200 max-age=31536000; includeSubDomains; preload True",
    ], done.stderr
