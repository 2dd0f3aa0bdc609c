"""What callers send besides the dialect's own members: passed on, and never more than what was reserved."""

from typing import Any

import pytest

from common.errors import InvalidField
from consumption.dialects import openai
from consumption.dialects.base import PaidRequest
from tests.consumption.protocols.callers import chat, message, read, upstream_body

#: What ``upstream_body`` here gives a call.
CAP = 7


def completion(**more: Any) -> PaidRequest:
    return read(openai.COMPLETIONS, {"model": "m", "prompt": "Hi", **more})


def passed_on(request: PaidRequest, protocol: str = "openai") -> dict[str, Any]:
    return upstream_body(request, protocol)


def test_what_says_nothing_of_how_much_is_written_is_passed_on_as_it_came() -> None:
    extras = {
        "top_k": 5, "topK": 5, "min_p": 0.1, "ignore_eos": True, "n_probs": 9_999, "thinking_budget": 9_999,
        "guided_json": {"maxLength": 9_999, "properties": {"max_tokens": {"type": "integer"}}},
        "chat_template_kwargs": {"enable_thinking": False}, "provider": {"order": ["a"], "max_price": {"x": 1}},
        "reasoning": {"max_tokens": 9_999}, "options": {"num_ctx": 9_999, "temperature": 1}, "documents": [{"n": 99}],
    }  # fmt: skip
    for request in (chat(max_tokens=CAP, **extras), completion(max_tokens=CAP, **extras)):
        assert extras.items() <= passed_on(request).items()
    del extras["top_k"]
    assert extras.items() <= passed_on(message(**extras), "anthropic").items()


@pytest.mark.parametrize(
    "name",
    [
        "n_predict", "max_new_tokens", "max_output_tokens", "maxOutputTokens", "maxTokens", "num_predict", "max_length",
        "max_gen_len", "max-tokens", "max_tokens_to_sample", "N_PREDICT",
    ],
)  # fmt: skip
def test_another_name_of_the_cap_names_it_and_holds_no_more_than_was_reserved(name: str) -> None:
    for call in (chat, completion):
        assert call(**{name: 300}).max_tokens == 300
        assert call(**{name: 300}, max_tokens=20).max_tokens == 20
        for value in (300, -1, 0, "300", 300.0, True, [300]):
            body = passed_on(call(**{name: value}))
            assert (body["max_tokens"], body[name]) == (CAP, CAP)
        for less in (5, None):
            assert passed_on(call(**{name: less}))[name] == less
    assert passed_on(message(**{name: 300}), "anthropic")[name] == CAP


@pytest.mark.parametrize("value", [-1, 0, "300", 300.0, True, None, 10_000_001, [300]])
def test_what_is_no_number_of_tokens_names_no_cap(value: Any) -> None:
    assert chat(n_predict=value).max_tokens is None
    assert chat(n_predict=value, max_new_tokens=9, max_output_tokens=8).max_tokens == 9


def test_what_is_written_at_least_is_no_more_than_what_was_reserved() -> None:
    assert chat(min_tokens=300).max_tokens is None
    assert passed_on(chat(min_tokens=300))["min_tokens"] == CAP
    assert passed_on(chat(min_tokens=3))["min_tokens"] == 3


@pytest.mark.parametrize(
    "holder", ["options", "parameters", "sampling_params", "generationConfig", "extra_body"]
)
def test_members_that_lie_deeper_are_held_too_and_the_rest_with_them_is_passed_on(holder: str) -> None:
    within = {"num_predict": 300, "best_of": 16, "seed": 4, "options": {"max_new_tokens": -1, "n": 2}}
    body = passed_on(chat(**{holder: within}, n=3))
    assert body[holder] == {
        "num_predict": CAP, "best_of": 3, "seed": 4, "options": {"max_new_tokens": CAP, "n": 2},
    }  # fmt: skip
    assert passed_on(chat(**{holder: "text"}))[holder] == "text"


def test_as_much_as_there_is_room_for_is_not_asked_for() -> None:
    assert passed_on(chat(auto_max_new_tokens=True))["auto_max_new_tokens"] is False


def test_another_name_of_the_number_of_answers_is_reserved_for() -> None:
    assert chat(n_cmpl=4).choices == 4
    assert chat(n_cmpl=2, n=3).choices == 3
    two = read(openai.COMPLETIONS, {"model": "m", "prompt": ["one", "two"], "n_cmpl": 4})
    assert two.choices == 8
    assert passed_on(two)["n_cmpl"] == 4
    for wrong in (0, 17, "2", True):
        with pytest.raises(InvalidField):
            chat(n_cmpl=wrong)


@pytest.mark.parametrize("name", ["Model", "N", "Max_Tokens", "STREAM", "Messages", "\u017ftream", "Best_Of"])
def test_a_known_name_in_other_letters_is_refused(name: str) -> None:
    """Servers that read names whatever their case would take it for the member that was checked."""
    for call in (chat, completion):
        with pytest.raises(InvalidField) as refused:
            call(**{name: 5})
        assert refused.value.extra["field"] == name.casefold()


@pytest.mark.parametrize("name", ["Model", "MCP_Servers", "Container", "Tools"])
def test_so_it_is_in_messages(name: str) -> None:
    with pytest.raises(InvalidField):
        message(**{name: []})


def test_what_is_embedded_has_no_output_to_hold() -> None:
    request = read(openai.EMBEDDINGS, {"model": "m", "input": "Hi", "max_length": 512})
    assert passed_on(request)["max_length"] == 512
    with pytest.raises(InvalidField):
        read(openai.EMBEDDINGS, {"model": "m", "input": "Hi", "Input": "Ho"})
