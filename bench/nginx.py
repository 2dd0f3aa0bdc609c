"""nginx, twice: as the upstream that always says the same, and as a bare proxy, the floor under any gateway."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from bench.errors import BenchError
from bench.process import Process
from devstack.ports import remembered_port
from devstack.private import private_folder

PROMPT_TOKENS, COMPLETION_TOKENS = 24, 48
ANSWER_TOKENS = PROMPT_TOKENS + COMPLETION_TOKENS
ANSWER = {
    "id": "chatcmpl-bench",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "bench",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "A quantum computer keeps its data in qubits, which may be zero and one at once and can be"
                " entangled with each other, so that some problems take it far fewer steps than a classical one.",
                "refusal": None,
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": ANSWER_TOKENS,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    },
    "service_tier": "default",
    "system_fingerprint": "fp_bench",
}

CONFIGURATION = """
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log warn;
worker_rlimit_nofile {files};
events {{ worker_connections 16384; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {upstream}
  server {{
    listen 127.0.0.1:{port} backlog=16384;
    location = /health {{ return 200 "ok"; }}
    location = /requests {{ stub_status; }}
    location / {{ {location} }}
  }}
}}
"""


def binary() -> str:
    """Raises BenchError where there is no nginx."""
    found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchError("nginx is missing: it is in Debian's package nginx-light")
    return found


class Nginx(Process):
    """One worker, in the foreground, everything it writes below `folder`."""

    def __init__(self, name: str, folder: Path, *, location: str, upstream: str = "") -> None:
        private_folder(folder)
        self.port = remembered_port(folder / "port")
        configuration = CONFIGURATION.format(
            folder=folder, port=self.port, location=location, upstream=upstream, files=16_384
        )
        (folder / "nginx.conf").write_text(configuration)
        command: list[str | Path] = [
            binary(), "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", "-g", "daemon off;"
        ]  # fmt: skip
        if os.geteuid() == 0:
            command[-1] = "daemon off; user root;"  # its folders are closed to everybody else
        super().__init__(name, command, cwd=folder, log=folder / "log")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self, core: int) -> None:
        self.start(core)
        self.wait_for(f"{self.url}/health", seconds=10)


def upstream(folder: Path) -> Nginx:
    """Answers every call with `ANSWER`, whatever it asks."""
    text = json.dumps(ANSWER, separators=(",", ":"))
    location = f"default_type application/json; return 200 '{text}';"
    return Nginx("upstream", folder, location=location)


def proxy(folder: Path, upstream: Nginx) -> Nginx:
    """Passes every call on over kept connections, and does nothing else."""
    return Nginx(
        "nginx",
        folder,
        upstream=f"upstream up {{ server 127.0.0.1:{upstream.port}; keepalive 256; keepalive_requests 1000000000; }}",
        location='proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";',
    )


def version() -> str:
    said = subprocess.run([binary(), "-v"], capture_output=True, text=True, check=True).stderr
    return said.strip().rpartition("/")[2]
