"""The sample marketplace: made by the application's own command, told to whoever started it."""

import json
import shlex
from pathlib import Path
from typing import Any

from devstack.errors import DevstackError
from devstack.layout import Surroundings
from devstack.private import write_private

NEEDED = ("admin_user", "admin_password", "api_key", "services")
PROMPT = "Explain quantum computing in simple terms"


def parse_seed(output: Path) -> dict[str, Any]:
    """What `seed_demo` printed: one JSON object, the last line that is one."""
    for line in reversed(output.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise DevstackError(f"manage.py seed_demo printed no data: see {output}")


def write_demo(surroundings: Surroundings, seeded: dict[str, Any]) -> dict[str, Any]:
    demo = {
        "base_url": surroundings.base_url,
        "console_url": surroundings.console_url,
        **seeded,
        "sample_upstream_url": surroundings.upstream_url,
        "sample_upstream_log": str(surroundings.layout.upstream_log),
    }
    missing = [name for name in NEEDED if not demo.get(name)]
    if missing:
        raise DevstackError(f"manage.py seed_demo did not tell: {', '.join(missing)}")
    write_private(surroundings.layout.demo_file, json.dumps(demo, indent=2) + "\n")
    return demo


def curl_line(demo: dict[str, Any]) -> str:
    service = demo["services"][0]["id"]
    parts = [
        "curl", "-sS", f"{demo['base_url']}/api/v1/consume/{service}",
        "-H", f"Authorization: Bearer {demo['api_key']}",
        "-H", "Content-Type: application/json",
        "-d", json.dumps({"prompt": PROMPT, "max_tokens": 100}),
    ]  # fmt: skip
    return shlex.join(parts)


def announcement(demo: dict[str, Any], demo_file: Path) -> str:
    return "\n".join(
        [
            "",
            f"READY {demo['base_url']}",
            f"  console  {demo['console_url']}/admin/  ({demo['admin_user']} / {demo['admin_password']})",
            f"  data     {demo_file}",
            "  try      " + curl_line(demo),
            "  stop     Ctrl-C",
        ]
    )
