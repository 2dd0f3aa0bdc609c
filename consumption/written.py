"""What an upstream wrote, kept until it is known whether it has to be counted."""

from collections.abc import Collection
from io import StringIO
from typing import Any

#: Characters that are kept; of more, only how many there are.
MOST_WRITTEN = 2 * 1024 * 1024
#: Choices whose texts are kept apart; no call asks for more.
MOST_APART = 1_024
#: Bytes of text that make a token, about, in Latin scripts: for what cannot be counted.
BYTES_PER_TOKEN = 4
#: What is written around a tool call's name and arguments, about.
TOOL_CALL_TOKENS = 8


class Written:
    """Answers, refusals, thoughts and tool calls by choice, whole or piece by piece."""

    __slots__ = ("_answers", "_left", "_thoughts", "_tool_calls")

    def __init__(self) -> None:
        # A buffer of text takes a tenth of what a list of its pieces would: there are thousands of streams at once.
        self._answers: dict[int, StringIO] = {}
        self._thoughts: dict[int, StringIO] | None = None
        self._tool_calls = 0
        self._left = MOST_WRITTEN

    def answer(self, index: int, text: str) -> None:
        """The next piece of what choice ``index`` says."""
        if text:
            self._put(self._answers, index, text)

    def see(self, index: int) -> None:
        """Choice ``index`` is there, and says nothing yet."""
        if index not in self._answers:
            _opened(self._answers, index)

    @property
    def choices(self) -> Collection[int]:
        """Which choices there are; those that are too many are one, which nobody knows by its index."""
        return self._answers.keys()

    def think(self, index: int, text: Any) -> None:
        """The next piece of what it thinks; whatever is no text is not known."""
        if isinstance(text, str) and text:
            if self._thoughts is None:
                self._thoughts = {}
            self._put(self._thoughts, index, text)

    def call(self, index: int, name: Any, arguments: Any) -> None:
        """A tool call, or the next piece of one, which then has no name."""
        if isinstance(name, str) and name:
            self._tool_calls += 1
            self.answer(index, name)
        if isinstance(arguments, str) and arguments:
            self.answer(index, arguments)

    @property
    def answers(self) -> list[str]:
        """The text of each choice, without its thoughts."""
        return [said for text in self._answers.values() if (said := text.getvalue())]

    @property
    def thoughts(self) -> list[str]:
        """The reasoning of each choice."""
        return [text.getvalue() for text in (self._thoughts or {}).values()]

    @property
    def other(self) -> int:
        """Tokens of what stands between the texts, and of what was too long to be kept."""
        return self._tool_calls * TOOL_CALL_TOKENS + max(0, -self._left) // BYTES_PER_TOKEN

    def _put(self, texts: dict[int, StringIO], index: int, text: str) -> None:
        if self._left > 0:
            if index not in texts:
                index = _opened(texts, index)
            texts[index].write(text[: self._left])
        self._left -= len(text)


def _opened(texts: dict[int, StringIO], index: int) -> int:
    """Where the text of a new choice goes; beyond the bound all further ones are one."""
    index = index if len(texts) < MOST_APART else -1
    texts.setdefault(index, StringIO())
    return index
