"""Counting tokens, as a process of its own: ``python -m consumption.counting``.

It imports nothing of the application and gets none of its environment: what it reads is what callers and upstreams
wrote. ``consumption.tokenizer`` starts it and speaks with it. A question is the length of its JSON in four bytes, and
``[rule, [text, …]]``; its answer is the sum of the texts' tokens on a line.
"""

import re
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO

import msgspec
import toktok

ENCODING = "o200k_base"
_APART = re.compile(r"[0-9]|\n+")

_read = msgspec.json.Decoder(tuple[str, list[str]]).decode


def o200k(texts: Sequence[str]) -> int:
    """Tokens as OpenAI's models since GPT-4o count them, exactly; text that looks like a special token is text."""
    return sum(toktok.batch_count(texts, ENCODING, threads=1))


def split(texts: Sequence[str]) -> int:
    """Tokens as most open models count them, about: every digit is one, and line ends join nothing before them.

    That is what sets Gemma, Qwen and Mistral apart from o200k; ``docs/performance.md`` has how near it comes.
    """
    apart = sum(len(_APART.findall(text)) for text in texts)
    return apart + o200k([piece for text in texts for piece in _APART.split(text) if piece])


RULES: dict[str, Callable[[Sequence[str]], int]] = {"o200k": o200k, "split": split}


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until nobody asks any more."""
    while header := questions.read(4):
        rule, texts = _read(questions.read(int.from_bytes(header, "big")))
        answers.write(b"%d\n" % RULES[rule](texts))
        answers.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
