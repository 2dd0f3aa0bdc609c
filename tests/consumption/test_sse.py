"""Server-sent events as the specification reads them, however they are cut on their way."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumption.errors import UpstreamFailed
from consumption.sse import MOST_EVENT_BYTES, EventReader

MARK = b"\xef\xbb\xbf"
LINES = (
    b"data: a", b"data:b", b"data:  c", b"data", b"data:", b"data : d", b" data: e", b"DATA: f", b": comment", b":",
    b"event: g", b"id: 1", b"retry: 5", b"unknown", b"data: h:i", MARK + b"data: j", b"", b"", b"",
)  # fmt: skip
ENDS = (b"\n", b"\r", b"\r\n")


def by_the_specification(stream: bytes) -> list[bytes]:
    """WHATWG HTML, 9.2.6, word by word, over a whole stream. An event with empty data is nobody's here."""
    found, buffer = [], b""
    for line in re.split(b"\r\n|\n|\r", stream.removeprefix(MARK))[:-1]:
        field, _, value = line.partition(b":")
        if not line:
            if data := buffer.removesuffix(b"\n"):
                found.append(data)
            buffer = b""
        elif field == b"data":
            buffer += value.removeprefix(b" ") + b"\n"
    return found


def read(pieces: list[bytes]) -> list[bytes]:
    reader = EventReader()
    return [event for piece in pieces for event in reader.feed(piece)]


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(stream[:size])
        stream = stream[size:]
    return [piece for piece in (*pieces, stream) if piece]


streams = st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(ENDS)).map(b"".join)).map(b"".join)


@given(st.sampled_from((b"", MARK)), streams, st.lists(st.integers(1, 9)))
@example(b"", b"data: a\r\rdata: b\r\n\r\ndata: c\r\n\ndata: d\n\r", [1] * 60)
@example(MARK, b"data: a\r\r", [1] * 60)
@example(b"", b"data: a\r\r\n", [])
def test_events_are_read_as_the_specification_says_wherever_they_are_cut(
    mark: bytes, stream: bytes, sizes: list[int]
) -> None:
    expected = by_the_specification(mark + stream)
    assert read([mark + stream]) == expected
    assert read(cut(mark + stream, sizes)) == expected


def test_an_event_is_there_with_its_last_carriage_return() -> None:
    """Whether a line feed follows is not waited for: it may be the last that comes for a minute."""
    reader = EventReader()
    assert reader.feed(b"data: one\r\r") == [b"one"]
    assert reader.feed(b"\ndata: two\r\n\r") == [b"two"]
    assert reader.feed(b"\n") == []
    assert reader.feed(b"data: three\n\n") == [b"three"]


@pytest.mark.parametrize("line", [b"data: x", b"data: x\n", b": x\r", b"x"])
@pytest.mark.parametrize("size", [64, 16_384])
def test_an_event_without_end_is_refused(line: bytes, size: int) -> None:
    reader, piece = EventReader(), (line * size)[:size]
    with pytest.raises(UpstreamFailed):  # noqa: PT012 - how many of them it takes is what is asked
        for fed in range(0, 2 * MOST_EVENT_BYTES, size):
            assert fed < MOST_EVENT_BYTES + 2 * size
            assert reader.feed(piece) == []


def test_an_event_just_below_the_bound_is_whole() -> None:
    reader, text = EventReader(), b"x" * (MOST_EVENT_BYTES - 10)
    pieces = cut(b"data: " + text + b"\n\n", [1000] * 1024)
    assert [event for piece in pieces for event in reader.feed(piece)] == [text]
