"""Server-sent events (WHATWG HTML, section 9.2), as upstreams send them: bytes in, the data of whole events out."""

from consumption.errors import UpstreamFailed

#: An event larger than this is nobody's token.
MOST_EVENT_BYTES = 1024 * 1024
DONE = b"[DONE]"
#: What ends an event.
END = b"\n\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventReader:
    """Cuts a byte stream into events; keeps what is not whole yet."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The ``data`` of every event that is whole now. Raises ``UpstreamFailed`` for an endless one."""
        # Where there is nothing to replace it is as quick as a look, and ``in`` is not: see ``_data_of``.
        events = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n\n")
        self._rest = events.pop()
        if len(self._rest) > MOST_EVENT_BYTES:
            raise UpstreamFailed()
        return [payload for event in events if (payload := _data_of(event))]


def _data_of(event: bytes) -> bytes:
    """All ``data`` lines of one event, joined; comments and other fields are passed over."""
    # ``in`` makes an error of what is no number before it looks for bytes.
    if event.startswith(b"data: ") and event.find(b"\n") < 0:
        return event[6:]
    event = event.removeprefix(_BYTE_ORDER_MARK)  # where a stream begins
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


def event(data: bytes) -> bytes:
    """One event with one line of data."""
    return b"data: " + data + b"\n\n"
