"""Server-sent events (WHATWG HTML, section 9.2), as upstreams send them: bytes in, the data of whole events out."""

from consumption.errors import UpstreamFailed

#: An event larger than this is nobody's token.
MOST_EVENT_BYTES = 1024 * 1024
LONG_EVENT_BYTES = 32 * 1024
DONE = b"[DONE]"
#: What ends an event.
END = b"\n\n"
#: How nearly all events begin, which have no other line.
_PLAIN = b"data: "
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventReader:
    """Cuts a byte stream into events; keeps what is not whole yet. A line ends with CR LF, LF or CR."""

    __slots__ = ("_after_return", "_begun", "_long", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        #: What is kept of a long event: it would else be copied and searched anew with every read.
        self._long = bytearray()
        #: Whether what came last was a carriage return: a line feed that follows belongs to it.
        self._after_return = False
        self._begun = False

    def feed(self, data: bytes) -> list[bytes]:
        """The ``data`` of every event that is whole now. Raises ``UpstreamFailed`` for an endless one."""
        if self._after_return:
            self._after_return = False
            data = data.removeprefix(b"\n")
        # ``in`` makes an error of what is no number before it looks for bytes.
        if data.find(b"\r") >= 0:
            data = data.replace(b"\r\n", b"\n")
            if data.find(b"\r") >= 0:
                self._after_return = data.endswith(b"\r")
                data = data.replace(b"\r", b"\n")
        if self._long:
            data = self._long_event(data)
        events = (self._rest + data).split(END)
        self._rest = rest = events.pop()
        if len(rest) > LONG_EVENT_BYTES:
            self._rest = b""
            self._long += rest
        if not self._begun and events:
            self._begun = True
            events[0] = events[0].removeprefix(_BYTE_ORDER_MARK)
        return [
            payload
            for event in events
            if (
                payload := event[6:]
                if event.startswith(_PLAIN) and event.find(b"\n") < 0
                else _data_of(event)
            )
        ]

    def _long_event(self, data: bytes) -> bytes:
        """What was kept of it and what has come now, once it is whole; until then nothing."""
        kept, looked_at = self._long, len(self._long) - 1
        kept += data
        if kept.find(END, looked_at) < 0:
            if len(kept) > MOST_EVENT_BYTES:
                raise UpstreamFailed()
            return b""
        data = bytes(kept)
        kept.clear()
        return data


def _data_of(event: bytes) -> bytes:
    """All ``data`` lines of one event, joined; comments and other fields are passed over."""
    lines = [
        line[5:].removeprefix(b" ")
        for line in event.split(b"\n")
        if line.startswith(b"data:") or line == b"data"
    ]
    return b"\n".join(lines)


def event(data: bytes) -> bytes:
    """One event with one line of data."""
    return b"data: " + data + b"\n\n"
