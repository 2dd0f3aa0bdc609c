"""What a caller of OpenAI's API can cost at most. Beyond it nothing is charged, so nothing may be left out."""

from typing import Any

import pytest

from common.errors import InvalidField
from consumption.dialects import openai
from consumption.dialects.base import DOCUMENT_TOKENS, IMAGE_TOKENS, PaidRequest
from tests.consumption.protocols.callers import chat, read, upstream_body

LONG = "x" * 10_000


def completion(prompt: Any, **more: Any) -> PaidRequest:
    return read(openai.COMPLETIONS, {"model": "m", "prompt": prompt, **more})


@pytest.mark.parametrize(
    ("prompt", "more", "choices"),
    [
        ("one", {}, 1), ("one", {"n": 3}, 3), (["one", "two", "three"], {}, 3), (["one", "two"], {"n": 3}, 6),
        ([1, 2, 3], {}, 1), ([[1, 2], [3]], {}, 2), (["one", "two"], {"best_of": 5, "n": 2}, 10),
        ("one", {"best_of": None}, 1),
    ],
)  # fmt: skip
def test_every_prompt_and_every_try_at_it_is_written_for_itself(
    prompt: Any, more: dict[str, Any], choices: int
) -> None:
    assert completion(prompt, **more).choices == choices


@pytest.mark.parametrize("best_of", [0, 17, "2", 1.5, True])
def test_tries_that_cannot_be_are_refused(best_of: Any) -> None:
    with pytest.raises(InvalidField) as refused:
        completion("one", best_of=best_of)
    assert refused.value.extra["field"] == "best_of"


def test_no_name_of_the_cap_leaves_more_than_what_was_reserved() -> None:
    names = "max_tokens", "max_completion_tokens"
    for request in (
        chat("Hi", max_tokens=5_000, max_completion_tokens=7),
        completion("Hi", max_tokens=7, max_completion_tokens=5_000),
    ):
        assert request.max_tokens == 7
        assert {name: upstream_body(request, "openai").get(name) for name in names} == dict.fromkeys(names, 7)
    assert "max_tokens" not in upstream_body(chat("Hi", max_completion_tokens=9), "openai")
    told = completion("Hi", max_completion_tokens=9)
    assert told.max_tokens is None, "of this call it is no option"
    assert upstream_body(told, "openai")["max_tokens"] == 7


@pytest.mark.parametrize(
    "request_",
    [
        completion(LONG, messages=[]),
        completion(LONG, messages=5),
        completion("Hi", suffix=LONG),
        read(openai.EMBEDDINGS, {"model": "m", "input": LONG, "messages": [], "prompt": "Hi"}),
        chat("Hi", documents=[{"text": LONG}]),
        chat("Hi", prediction={"type": "content", "content": LONG}),
        chat("Hi", some_vendors_field=LONG),
        chat({"role": LONG, "content": "Hi"}),
        chat({"role": "user", "content": {"text": LONG}}),
        chat({"role": "user", "content": [{"type": "text", "text": "Hi", "more": LONG}]}),
    ],
)
def test_whatever_an_upstream_may_read_is_bounded_by_its_bytes(request_: PaidRequest) -> None:
    assert len(LONG) < request_.prompt_bound() < len(LONG) + 200


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "image_url", "text": "", "image_url": {"url": "https://example.com/a"}}, IMAGE_TOKENS),
        ({"type": "video_url", "video_url": {"url": "https://example.com/a"}}, DOCUMENT_TOKENS),
        ({"image_url": "https://example.com/a"}, DOCUMENT_TOKENS),
        ({"type": ["text"], "text": ""}, DOCUMENT_TOKENS),
    ],
)
def test_what_a_part_shows_costs_more_than_its_address(part: Any, tokens: int) -> None:
    assert chat({"role": "user", "content": [part]}).prompt_bound() - chat("").prompt_bound() == tokens
