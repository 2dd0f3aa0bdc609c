"""OpenAI's protocol from end to end: nothing is translated, and the answer is passed on as it came."""

from consumption import sse
from consumption.replies import Bounds, Chunk, Reply, estimate, meter, read_chunk, read_reply


class SpeaksOpenAi:
    """What makes a request in OpenAI's protocol its own exchange with an upstream that speaks the same."""

    __slots__ = ()

    protocol = "openai"

    def reply(self, body: bytes, bounds: Bounds) -> Reply:
        return read_reply(body, bounds)

    def reader(self, bounds: Bounds) -> "ChunkReader":
        return ChunkReader(bounds)


class ChunkReader:
    """Chunks as they come; ``[DONE]`` ends them."""

    __slots__ = ("_bounds", "_usage", "_written_bytes", "done")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._usage: object = None
        self._written_bytes = 0
        self.done = False

    def read(self, event: bytes) -> Chunk | None:
        if event == sse.DONE:
            self.done = True
            return None
        chunk = read_chunk(event)
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            self._written_bytes += len(choice.written.encode())
        return chunk

    def reply(self) -> Reply:
        tokens, source = meter(self._usage, self._bounds)
        return Reply((), tokens or estimate(self._written_bytes, self._bounds), source)
