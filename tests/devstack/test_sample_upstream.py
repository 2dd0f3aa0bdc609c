"""The sample upstream: OpenAI's chat format, the same answer every time, and a log that can be counted."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from devstack.children import Child, upstream_command
from devstack.ports import free_port
from devstack.readiness import answers_ok
from devstack.sample_model import count_tokens
from tests.harness.waiting import wait_for


class Upstream:
    def __init__(self, port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def post(self, body: Any, **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return requests.post(f"{self.url}/v1/chat/completions", data=data, headers=headers, timeout=20)

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    folder = tmp_path_factory.mktemp("upstream")
    port = free_port()
    env = {**os.environ, "SAMPLE_UPSTREAM_LOG": str(folder / "calls.jsonl")}
    child = Child("upstream", upstream_command(port), env, folder / "log", Path.cwd())
    child.start()
    wait_for(lambda: answers_ok(f"http://127.0.0.1:{port}/health"))
    yield Upstream(port, folder / "calls.jsonl")
    child.ask_to_stop()
    wait_for(lambda: child.exit_code in {0, -signal.SIGTERM})


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "sample", "messages": [{"role": "user", "content": text}], **more}


def test_tokens_are_what_can_be_counted_by_hand(upstream: Upstream) -> None:
    answer = upstream.post(chat("Hello, world!")).json()
    text = answer["choices"][0]["message"]["content"]
    assert answer["usage"]["prompt_tokens"] == 4 + 8
    assert answer["usage"]["completion_tokens"] == count_tokens(text) >= 8
    assert answer["usage"]["total_tokens"] == answer["usage"]["completion_tokens"] + 12
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_same_prompt_gets_the_same_answer(upstream: Upstream) -> None:
    first, second = (upstream.post(chat("again and again")).json() for _ in range(2))
    assert first["id"] != second["id"]
    assert (first["choices"], first["usage"]) == (second["choices"], second["usage"])


def test_max_tokens_cuts_the_answer(upstream: Upstream) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = upstream.post(chat("cut me short", **{name: 3})).json()
        assert answer["choices"][0]["message"]["content"] == "cut me short"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"] == {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def test_several_choices_are_all_counted(upstream: Upstream) -> None:
    answer = upstream.post(chat("twice", n=2, max_tokens=5)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 10


def test_the_log_has_a_line_for_every_answer_before_it_is_given(upstream: Upstream) -> None:
    answer = upstream.post(chat("log this"), **{"X-Request-Id": "request-1"}).json()
    [line] = [line for line in upstream.logged() if line["request_id"] == "request-1"]
    assert {name: line[name] for name in answer["usage"]} == answer["usage"]


def test_no_line_is_lost_when_many_call_at_once(upstream: Upstream) -> None:
    names = [f"many-{number}" for number in range(200)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda name: upstream.post(chat(name), **{"X-Request-Id": name}), names))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(n for line in upstream.logged() if (n := line["request_id"]).startswith("many-")) == sorted(
        names
    )


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\xff", b'{"messages": []}', b'{"messages": "x"}', b"[" * 100_000,
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
        b'{"messages": [{"role": "user", "content": "x"}], "n": 17}',
    ],
)  # fmt: skip
def test_bad_input_is_refused_and_not_logged(upstream: Upstream, body: bytes) -> None:
    answer = upstream.post(body, **{"X-Request-Id": "bad"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "bad" not in {line["request_id"] for line in upstream.logged()}


def test_an_unknown_address_is_404(upstream: Upstream) -> None:
    assert requests.get(f"{upstream.url}/v2/nothing", timeout=5).status_code == 404


def test_the_official_client_understands_it_streaming_or_not(upstream: Upstream) -> None:
    client = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="unused")
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "Hello there, you."}]}]
    whole = client.chat.completions.create(model="sample", messages=messages)
    stream = client.chat.completions.create(
        model="sample", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert [model.id for model in client.models.list()] == ["sample"]


def test_texts_are_completed_and_embedded_for_the_official_client(upstream: Upstream) -> None:
    client = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="unused")
    whole = client.completions.create(model="sample", prompt="Hello there, you.", n=2, max_tokens=9)
    stream = client.completions.create(
        model="sample", prompt="Hello there, you.", max_tokens=9, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[1].text
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert whole.usage.completion_tokens == 2 * chunks[-1].usage.completion_tokens == 18

    vectors = client.embeddings.create(model="sample", input=["one two", "three", "one two"])
    assert vectors.usage.prompt_tokens == 5
    first, other, again = (each.embedding for each in vectors.data)
    assert first == again != other
    assert sum(value * value for value in first) == pytest.approx(1)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="sample", prompt="")
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="sample", input=[])


def test_a_killed_main_process_leaves_no_worker(tmp_path: Path) -> None:
    port = free_port()
    env = {**os.environ, "SAMPLE_UPSTREAM_LOG": str(tmp_path / "calls.jsonl")}
    process = subprocess.Popen(upstream_command(port), env=env, stderr=subprocess.DEVNULL)
    wait_for(lambda: answers_ok(f"http://127.0.0.1:{port}/health"))
    process.kill()
    process.wait()
    wait_for(lambda: not answers_ok(f"http://127.0.0.1:{port}/health", seconds=0.2))
    again = subprocess.Popen(upstream_command(port), env=env, stderr=subprocess.DEVNULL)
    wait_for(lambda: answers_ok(f"http://127.0.0.1:{port}/health"))
    again.terminate()
    assert again.wait(30) in {0, -signal.SIGTERM}


def test_a_stop_while_it_still_starts_is_heard(tmp_path: Path) -> None:
    """Stopped at ten moments of its start; each time it ends by itself, long before it would be killed."""
    env = {**os.environ, "SAMPLE_UPSTREAM_LOG": str(tmp_path / "calls.jsonl")}
    for step in range(10):
        child = Child("upstream", upstream_command(free_port()), env, tmp_path / "log", Path.cwd())
        child.start()
        time.sleep(0.1 + step * 0.05)
        child.ask_to_stop()
        wait_for(lambda child=child: not child.running)  # type: ignore[misc]
        child.kill()
