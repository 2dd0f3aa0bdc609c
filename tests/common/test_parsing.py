"""Strict JSON: what is refused, and that the quick way refuses just what the slow one does."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import parsing
from common.errors import Malformed
from common.parsing import strict_json

LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(st.text(max_size=3), inner), max_size=4),
)
GAPS = st.sampled_from(["", " ", "\t", "\n", "\r"])


def written(value: Any, gap: str, *, escaped: bool) -> str:
    """JSON in which a list of pairs is an object, so that members can come twice."""
    if isinstance(value, list) and value and all(isinstance(each, tuple) for each in value):
        members = (
            f"{json.dumps(name, ensure_ascii=escaped)}{gap}:{gap}{written(inner, gap, escaped=escaped)}"
            for name, inner in value
        )
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, gap, escaped=escaped) for each in value) + "]"
    return json.dumps(value, ensure_ascii=escaped)


def outcome(read: Any, text: bytes) -> Any:
    try:
        return repr(read(text))
    except Malformed:
        return Malformed


@given(VALUES, GAPS, st.booleans())
def test_the_quick_way_tells_what_the_slow_one_does(value: Any, gap: str, escaped: bool) -> None:
    text = written(value, gap, escaped=escaped).encode(errors="surrogatepass")
    assert outcome(strict_json, text) == outcome(parsing._slowly, text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}', b'{"a":1,"a" :2}', b'{"b":{"a":1,"a":"\\":"}}', b'{"a":18446744073709551616}',
        b'{"a":1e400}',
        b'{"a":NaN}', b'{"a":"\\u0000"}', b'{"a":"\\ud800"}', b'{"a":"\x00"}', b'{"a":"\xff"}', b"[" * 100_000,
        b"", b"{",
    ],
)  # fmt: skip
def test_what_parsers_disagree_on_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed):
        strict_json(text)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('{"a" :', "}")])
def test_nesting_has_a_bound_that_leaves_the_stack_to_whoever_reads_on(opening: str, closing: str) -> None:
    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth

    assert strict_json(nested(parsing.MOST_DEPTH))
    with pytest.raises(Malformed):
        strict_json(nested(parsing.MOST_DEPTH + 1))


def test_a_text_that_looks_like_members_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert strict_json(b'{"a":"\\":\\":","b":[{"c":"x\\":"}]}') == {"a": '":":', "b": [{"c": 'x":'}]}


def test_a_plain_document_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "_slowly", None)
    assert strict_json('{"a": {"b": [1, "ü"]}}') == {"a": {"b": [1, "ü"]}}
