"""What a prompt is made of, for the calls whose tokens have to be counted."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

#: What OpenAI charges for an image of 1024 by 1024 at high and at low detail; also taken for audio, files and whatever
#: else is no text, whose own count nobody but the model knows.
IMAGE_TOKENS, SMALL_IMAGE_TOKENS = 765, 85
#: Members of a message that the model reads as text, besides its content.
_READ_TOO = ("name", "refusal", "reasoning_content")


@dataclass(slots=True)
class Prompt:
    """``messages``: how many; ``other``: tokens of what is no text."""

    texts: list[str]
    messages: int = 0
    other: int = 0


def prompt_of_messages(messages: Iterable[dict[str, Any]], *more: Any) -> Prompt:
    """The prompt of a chat, in OpenAI's or Anthropic's form. ``more``: what else is read, such as tools."""
    prompt = Prompt([])
    for message in messages:
        prompt.messages += 1
        _add_content(prompt, message.get("content"))
        prompt.texts += [message[name] for name in _READ_TOO if isinstance(message.get(name), str)]
        if message.get("tool_calls"):
            prompt.texts.append(_json(message["tool_calls"]))
    for value in more:
        if value:
            prompt.texts.append(value if isinstance(value, str) else _json(value))
    return prompt


def prompt_of_input(*given: Any) -> Prompt:
    """The prompt of a completion or an embedding: texts, or lists of texts, of token ids, or of lists of those."""
    prompt = Prompt([])
    for value in given:
        for item in value if isinstance(value, list) else (value,):
            if isinstance(item, str):
                prompt.texts.append(item)
            elif isinstance(item, list):
                prompt.other += len(item)
            elif isinstance(item, int):
                prompt.other += 1
    return prompt


def _add_content(prompt: Prompt, content: Any) -> None:
    if isinstance(content, str):
        prompt.texts.append(content)
    elif isinstance(content, list):
        for part in content:
            _add_part(prompt, part if isinstance(part, dict) else {})


def _add_part(prompt: Prompt, part: dict[str, Any]) -> None:
    text = part.get("text") or part.get("thinking")
    if isinstance(text, str):
        prompt.texts.append(text)
    elif part.get("type") == "tool_use":
        prompt.texts.append(_json([part.get("name"), part.get("input")]))
    elif part.get("type") == "tool_result":
        _add_content(prompt, part.get("content"))
    else:
        image = part.get("image_url")
        small = isinstance(image, dict) and image.get("detail") == "low"
        prompt.other += SMALL_IMAGE_TOKENS if small else IMAGE_TOKENS


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
