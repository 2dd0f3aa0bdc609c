"""What becomes of errors that no view foresaw."""

import os
import socket
import subprocess
import sys

from tests.harness.servers import ROOT

ASK = """
import django, json
django.setup()
from rest_framework.test import APIClient
from keys.format import mint
answer = APIClient(raise_request_exception=False).get(
    "/api/v1/services", HTTP_AUTHORIZATION="Bearer " + mint().text, HTTP_HOST="localhost"
)
print(answer.status_code, answer["Retry-After"], answer["Content-Type"], json.loads(answer.content)["code"])
"""


def test_without_the_database_a_view_is_not_able_now() -> None:
    with socket.socket() as nobody:
        nobody.bind(
            ("127.0.0.1", 0)
        )  # bound and not listening: connections are refused, and nobody else gets it
        environment = {
            **os.environ,
            "DATABASE_URL": f"postgres://nobody@127.0.0.1:{nobody.getsockname()[1]}/none",
            "PROCESS": "gateway",
        }
        done = subprocess.run(
            [sys.executable, "-c", ASK], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
    assert done.stdout.split() == ["503", "1", "application/problem+json", "unavailable"]
