"""What providers report, word for word as they document it, and what is metered of it.

What was read from a cache is inside the prompt at some and beside it at others, and so is what was thought; here a
token always counts once, and the parts of the prompt and of the completion lie inside them.
"""

from decimal import Decimal
from typing import Any

import pytest

from catalog.pricing import Tokens
from catalog.pricing_shapes import parse_pricing
from consumption.protocols.anthropic import usage_inside
from consumption.protocols.messages_over_openai import usage_beside
from consumption.replies import Bounds, meter, usage_of

ROOM = Bounds(100_000, 100_000)
OPENAI = {
    "prompt_tokens": 2006,
    "completion_tokens": 300,
    "total_tokens": 2306,
    "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 128,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    },
}
OPENAI_AUDIO = {
    "prompt_tokens": 182,
    "completion_tokens": 207,
    "total_tokens": 389,
    "prompt_tokens_details": {
        "cached_tokens": 64, "text_tokens": 119, "audio_tokens": 63,
        "cached_tokens_details": {"text_tokens": 54, "audio_tokens": 10},
    },
    "completion_tokens_details": {"reasoning_tokens": 0, "text_tokens": 42, "audio_tokens": 165},
}  # fmt: skip
OPENROUTER = {
    "prompt_tokens": 10339,
    "completion_tokens": 60,
    "total_tokens": 10399,
    "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 10318, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 10},
}
DEEPSEEK = {
    "prompt_tokens": 16,
    "completion_tokens": 10,
    "total_tokens": 26,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 6},
    "prompt_cache_hit_tokens": 8,
    "prompt_cache_miss_tokens": 8,
}
XAI = {
    "prompt_tokens": 32,
    "completion_tokens": 9,
    "total_tokens": 135,
    "prompt_tokens_details": {"text_tokens": 32, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 6},
    "completion_tokens_details": {"reasoning_tokens": 94, "audio_tokens": 0},
}
GEMINI = {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623}
ANTHROPIC = {
    "input_tokens": 50,
    "cache_creation_input_tokens": 248,
    "cache_read_input_tokens": 1800,
    "output_tokens": 503,
    "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
}
PRICE = {
    "model": "per_token",
    "unit": 1_000_000,
    "rates": {
        "prompt": "3", "completion": "15", "cached": "0.3", "cache_write": "3.75", "reasoning": "20",
        "audio_prompt": "40", "audio_completion": "80",
    },
    "currency": "USD",
}  # fmt: skip

GOLDEN = [
    # 86 * 3 + 1920 * 0.3 + 172 * 15 + 128 * 20, in millionths
    pytest.param(OPENAI, Tokens(2006, 300, 1920, 128), "0.005974", id="openai: both inside"),
    # 65 * 3 + 64 * 0.3 + 53 * 40 + 42 * 15 + 165 * 80: ten audio tokens of the prompt were cached
    pytest.param(
        OPENAI_AUDIO,
        Tokens(182, 207, 64, 0, audio_prompt=53, audio_completion=165),
        "0.0161642",
        id="openai: audio inside, and cached audio",
    ),
    # 21 * 3 + 10318 * 3.75 + 50 * 15 + 10 * 20
    pytest.param(
        OPENROUTER,
        Tokens(10339, 60, 0, 10, cache_write=10318),
        "0.0397055",
        id="openrouter: cache writes inside",
    ),
    # 8 * 3 + 8 * 0.3 + 4 * 15 + 6 * 20
    pytest.param(DEEPSEEK, Tokens(16, 10, 8, 6), "0.0002064", id="deepseek: both inside, and told twice"),
    # 26 * 3 + 6 * 0.3 + 9 * 15 + 94 * 20
    pytest.param(XAI, Tokens(32, 103, 6, 94), "0.0020948", id="xai: reasoning beside"),
    # 20 * 3 + 198 * 15 + 405 * 20
    pytest.param(GEMINI, Tokens(20, 603, 0, 405), "0.01113", id="gemini: thoughts in the total alone"),
    # 50 * 3 + 248 * 3.75 + 1800 * 0.3 + 503 * 15
    pytest.param(
        usage_inside(ANTHROPIC),
        Tokens(2098, 503, 1800, 0, cache_write=248),
        "0.009165",
        id="anthropic: cache reads and writes beside",
    ),
]


@pytest.mark.parametrize(("usage", "tokens", "cost"), GOLDEN)
def test_every_token_is_metered_and_charged_once(usage: dict[str, Any], tokens: Tokens, cost: str) -> None:
    assert meter(usage, ROOM) == (tokens, "reported")
    assert parse_pricing(PRICE).cost(tokens, charged=True) == Decimal(cost)


def test_what_is_told_on_in_the_other_convention_is_the_same() -> None:
    tokens, _ = meter(usage_inside(ANTHROPIC), ROOM)
    assert tokens is not None
    assert usage_beside(tokens) == {name: ANTHROPIC[name] for name in usage_beside(tokens)}
    assert meter(usage_of(tokens), ROOM) == (tokens, "reported")


def test_parts_beyond_what_was_reserved_are_cut_with_their_group() -> None:
    assert meter(usage_inside(ANTHROPIC), Bounds(1900, 100)) == (
        Tokens(1900, 100, 1800, 0, cache_write=100),
        "clamped",
    )
    assert meter(XAI, Bounds(32, 50)) == (Tokens(32, 50, 6, 50), "clamped")


@pytest.mark.parametrize(
    "total",
    [1_000, 1, -5, "135", None, 32 + 9 + 93],
    ids=["more", "less", "negative", "text", "none", "other"],
)
def test_a_total_that_reasoning_does_not_explain_changes_nothing(total: Any) -> None:
    usage = {**XAI, "total_tokens": total}
    assert meter(usage, ROOM) == (Tokens(32, 9, 6, 9), "reported")
