"""Reading a JSON body that may be hostile: bounded, strict, and never a 500."""

import json
import math
from collections.abc import Mapping
from typing import IO, Any, NoReturn

import msgspec
from django.conf import settings
from rest_framework.parsers import BaseParser

from common.errors import InvalidField, Malformed, TooLarge


class StrictJSONParser(BaseParser):
    """``strict_json`` for the REST API's ordinary views, bounded by ``MAX_BODY_BYTES``.

    Raises ``TooLarge`` or ``Malformed``. Unlike DRF's own it survives nesting of any depth.
    """

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        if len(body) > settings.MAX_BODY_BYTES:
            raise TooLarge
        return strict_json(body)


_INT64 = 2**63
#: How deep containers may lie in one another: no call needs more, and all that is done with a document has the stack
#: for it.
MOST_DEPTH = 256


def read_object(body: bytes, *, most_bytes: int) -> dict[str, Any]:
    """The JSON object in a body. Raises ``TooLarge``, ``Malformed`` or, where it is no object, ``InvalidField``."""
    if len(body) > most_bytes:
        raise TooLarge()
    document = strict_json(body)
    if not isinstance(document, dict):
        raise InvalidField("The body must be a JSON object")
    return document


def strict_json(body: bytes | str) -> Any:
    """Parse JSON (RFC 8259, UTF-8) and refuse what parsers disagree on.

    Raises ``Malformed`` for duplicate keys, integers beyond 64 bits, numbers beyond a double's range, NaN,
    NUL and lone surrogates in texts, and nesting deeper than ``MOST_DEPTH``.
    """
    data = body if isinstance(body, bytes) else body.encode(errors="surrogatepass")
    document = _plainly(data)
    return _slowly(body) if document is _DOUBTFUL else document


#: A document that only the slow way can judge.
_DOUBTFUL = object()
#: ``find`` looks for them, since ``in`` makes an error of every one before it looks.
_DOUBTED = (b"\\u", b'" :', b'"\t:', b'"\n:', b'"\r:')


def _plainly(data: bytes) -> Any:
    """The document, a tenth as dear, where it is plain to see that nothing in it is refused; else ``_DOUBTFUL``.

    Every member's name is followed by ``":``, since no space stands between them, and a text may hold some more of
    these. So where there are as many as members that were kept, no member was given twice.
    """
    if max(map(data.find, _DOUBTED)) >= 0:
        return _DOUBTFUL
    try:
        document = msgspec.json.decode(data)
        # What is no container needs no haste: it is no body of a call.
        if type(document) not in (dict, list) or _members(document) != data.count(b'":'):
            return _DOUBTFUL
        return document
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _DOUBTFUL


def _members(container: Any, depth: int = 1) -> int:
    """How many members the objects in a dict or list have.

    Raises ``ValueError`` for an integer beyond 64 bits, ``RecursionError`` for what is nested too deeply.
    """
    if depth > MOST_DEPTH:
        raise RecursionError
    count, values = 0, container
    if type(container) is dict:
        count, values = len(container), container.values()
    for each in values:
        kind = type(each)
        if kind is str:
            continue
        if kind is dict or kind is list:
            count += _members(each, depth + 1)
        elif kind is int and not -_INT64 <= each < _INT64:
            raise ValueError("integer beyond 64 bits")
    return count


def _slowly(body: bytes | str) -> Any:
    try:
        text = body if isinstance(body, str) else body.decode()
        document = _decoder.decode(text)
        if isinstance(document, dict | list):
            _members(document)
        if "\\u" in text:
            _refuse_unstorable(document)
    except RecursionError as error:
        raise Malformed("The JSON is nested too deeply") from error
    except ValueError as error:
        raise Malformed("The body is not valid JSON") from error
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or not -_INT64 <= (value := int(text)) < _INT64:
        raise ValueError("integer beyond 64 bits")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number beyond a double's range")
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)


def _refuse_unstorable(value: Any) -> None:
    """NUL and lone surrogates cannot be stored, and lone surrogates cannot even be sent on."""
    if isinstance(value, str):
        if "\x00" in value:
            raise Malformed("A text holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Malformed("A text holds a lone surrogate") from error
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_unstorable(name)
            _refuse_unstorable(item)
    elif isinstance(value, list):
        for item in value:
            _refuse_unstorable(item)
