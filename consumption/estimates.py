"""What a call used where its upstream reports nothing: counted, and never more than was reserved."""

import asyncio
import re
from collections.abc import Sequence

from catalog.pricing import Tokens
from catalog.snapshot import Offer
from consumption.prompts import Prompt
from consumption.replies import Bounds
from consumption.tokenizer import Tokenizer
from consumption.written import BYTES_PER_TOKEN, Written

#: Names of models that read digits by threes, and line ends with what stands before them, as o200k does.
_LIKE_O200K = re.compile(
    r"(?:.*/)?(?:gpt|chatgpt|o[1-9]|codex|text-embedding|davinci|babbage|(?:meta-)?llama-?[34])",
    re.IGNORECASE,
)
#: Tokens around each message and around all of them in the chat templates of the models that a rule stands for:
#: OpenAI's as its cookbook counts them, Gemma's and Qwen's as published with the models.
TEMPLATES = {"o200k": (4, 3), "split": (5, 4)}


def rule_of(offer: Offer) -> str:
    """How to count for a service: as its operator says, else by the name of its model."""
    return offer.tokenizer or ("o200k" if _LIKE_O200K.match(offer.model) else "split")


async def estimate(
    tokenizer: Tokenizer, rule: str, prompt: Prompt, written: Written, bounds: Bounds
) -> Tokens:
    """Tokens of a call whose upstream reports none: of its prompt, and of what was written until now.

    It always returns: a cancel that comes meanwhile is raised by the caller's next await, once there is something to
    settle.
    """
    each, once = TEMPLATES[rule] if prompt.messages else (0, 0)
    asked = await _count(tokenizer, prompt.texts, rule) + prompt.messages * each + once + prompt.other
    reasoning = await _count(tokenizer, written.thoughts, rule)
    answered = await _count(tokenizer, written.answers, rule) + written.other
    completion = min(answered + reasoning, bounds.completion)
    return Tokens(min(asked, bounds.prompt), completion, reasoning=min(reasoning, completion))


async def _count(tokenizer: Tokenizer, texts: Sequence[str], rule: str) -> int:
    tokens = None
    try:
        tokens = await tokenizer.count(texts, rule)
    except asyncio.CancelledError as cancelled:
        _cancel_later(cancelled)
    if tokens is None:
        tokens = -(-sum(len(text.encode(errors="replace")) for text in texts) // BYTES_PER_TOKEN)
    return tokens


def _cancel_later(cancelled: asyncio.CancelledError) -> None:
    """The cancel that was just raised counts as one, and says what it said."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel(*cancelled.args)
