"""OpenAI's protocol from end to end: nothing is translated, and the answer is passed on as it came."""

from catalog.pricing import Tokens
from consumption import sse
from consumption.replies import Bounds, Chunk, Reply, meter, read_chunk, read_reply
from consumption.written import Written


class SpeaksOpenAi:
    """What makes a request in OpenAI's protocol its own exchange with an upstream that speaks the same."""

    __slots__ = ()

    protocol = "openai"
    headers = b""

    def reply(self, body: bytes, bounds: Bounds) -> Reply:
        return read_reply(body, bounds)

    def reader(self, bounds: Bounds) -> "ChunkReader":
        return ChunkReader(bounds)


class ChunkReader:
    """Chunks as they come; ``[DONE]`` ends them."""

    __slots__ = ("_bounds", "_usage", "_written", "done")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._usage: object = None
        self._written = Written()
        self.done = False

    def read(self, event: bytes) -> Chunk | None:
        if event == sse.DONE:
            self.done = True
            return None
        chunk = read_chunk(event)
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            choice.write(self._written)
        return chunk

    def reply(self) -> Reply:
        tokens, source = meter(self._usage, self._bounds)
        if tokens is None:
            return Reply((), Tokens(), source, written=self._written)
        return Reply((), tokens, source)

    def closing(self, tokens: Tokens) -> bytes:
        return b""
