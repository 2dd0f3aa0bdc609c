"""Members that are not the dialect's own. They are passed on, and none of them undoes what was reserved.

Servers of one protocol know more names for how much may be written than the protocol has, and some let theirs win:
llama.cpp's ``n_predict`` over ``max_tokens``. Such a member is the call's cap where no other is named, and says no more
than was reserved when it goes upstream. Of names that nobody here knows, what is written beyond is clamped.
"""

from collections.abc import Set
from typing import Any

from common.errors import InvalidField
from consumption.dialects.base import MOST_CHOICES, MOST_OUTPUT_TOKENS
from consumption.dialects.checks import check_range, typed

# Names without case, hyphens and underscores: Bedrock's is ``maxTokens``, Gemini's ``maxOutputTokens``.
_CAPS = frozenset({
    "maxtokens", "maxcompletiontokens", "maxoutputtokens", "maxnewtokens", "maxtokenstosample", "maxgenlen",
    "maxgeneratedtokens", "maxlength", "npredict", "numpredict",
})  # fmt: skip
#: What is written at least. Some servers refuse more than the cap, others write it.
_LEASTS = frozenset({"mintokens", "minnewtokens", "minoutputtokens", "minlength"})
#: How many answers are written, and paid for.
_CHOICES = frozenset({
    "n", "bestof", "ncmpl", "numreturnsequences", "numgenerations", "numcompletions", "candidatecount",
})  # fmt: skip
#: Text-generation-webui's word for "as much as there is room for".
_BOUNDLESS = frozenset({"automaxnewtokens"})
#: Members that hold such members: Ollama's, Hugging Face's, SGLang's, Gemini's, Bedrock's, what clients did not unpack.
_HOLDERS = frozenset({
    "options", "parameters", "samplingparams", "generationconfig", "inferenceconfig", "extrabody",
})  # fmt: skip


def extras_of(body: dict[str, Any], known: Set[str]) -> dict[str, Any]:
    """The members beside the known ones.

    Raises ``InvalidField`` for a known name in other letters: some servers, Go's above all, read names whatever their
    case, and would take it for the member that was checked, or that is set here.
    """
    extras = {name: value for name, value in body.items() if name not in known}
    for name in extras:
        if (folded := name.casefold()) in known:
            raise InvalidField(f"{folded} is written in other letters", field=folded)
    return extras


def named_cap(extras: dict[str, Any]) -> int | None:
    """The largest output cap among them; what is no number of tokens, or stands for "no end", names none."""
    caps = (value for name, value in extras.items() if _plain(name) in _CAPS and type(value) is int)
    return max((cap for cap in caps if 0 < cap <= MOST_OUTPUT_TOKENS), default=None)


def named_choices(extras: dict[str, Any]) -> int:
    """How many answers they ask for. Raises ``InvalidField`` for more than there may be."""
    choices = 1
    for name in extras:
        if _plain(name) in _CHOICES and (value := typed(extras, name, int)) is not None:
            check_range(value, "n", 1, MOST_CHOICES)
            choices = max(choices, value)
    return choices


def held(extras: dict[str, Any], *, output_cap: int, choices: int) -> dict[str, Any]:
    """The members as they go upstream, where a call may write ``choices`` answers of ``output_cap`` tokens."""
    return {name: _held(_plain(name), value, output_cap, choices) for name, value in extras.items()}


def _held(plain: str, value: Any, output_cap: int, choices: int) -> Any:
    if value is None:
        return None
    if plain in _CAPS or plain in _LEASTS:
        return _at_most(output_cap, value)
    if plain in _CHOICES:
        return _at_most(choices, value)
    if plain in _BOUNDLESS:
        return False
    if plain in _HOLDERS and isinstance(value, dict):
        return held(value, output_cap=output_cap, choices=choices)
    return value


def _at_most(most: int, value: Any) -> int:
    """What is no plain number may be read as one: text, fractions, and what is below 1 as "no end"."""
    return value if type(value) is int and 0 < value <= most else most


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")
