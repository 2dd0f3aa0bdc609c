"""OpenAI's protocol from end to end: nothing is translated, and the answer is passed on as it came."""

from consumption import sse
from consumption.dialects.base import PaidRequest
from consumption.replies import Bounds, Chunk, Reply, estimate, meter, read_chunk, read_reply


class ChatExchange:
    """A caller who speaks OpenAI's protocol, an upstream that does."""

    __slots__ = ("_request", "path")

    def __init__(self, request: PaidRequest) -> None:
        self._request = request
        self.path = request.path

    def body(self, *, model: str, output_cap: int) -> bytes:
        return self._request.upstream_body(model=model, output_cap=output_cap)

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
