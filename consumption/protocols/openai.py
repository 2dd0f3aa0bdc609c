"""OpenAI's protocol from end to end: nothing is translated, and the answer is passed on as it came."""

from catalog.pricing import Tokens
from consumption import sse
from consumption.errors import UpstreamFailed
from consumption.replies import Bounds, Chunk, Reply, meter, no_answer, read_chunk, read_reply
from consumption.written import MOST_APART, Written
from metering.journal import UsageSource


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
    """Chunks as they come; ``[DONE]`` ends them.

    Some upstreams leave it out. Theirs are whole where every choice has said why it ended, or what they used was told
    at the end, and nothing of the body is missing.
    """

    __slots__ = ("_bounds", "_ended", "_reported", "_written", "done")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        #: The latest usage that can be one.
        self._reported: tuple[Tokens, UsageSource] | None = None
        self._written = Written()
        #: The choices that have said why they ended.
        self._ended: set[int] = set()
        self.done = False

    def read(self, event: bytes) -> Chunk | None:
        if event == sse.DONE:
            self.done = True
            return None
        try:
            chunk = read_chunk(event)
        except UpstreamFailed:
            # The official clients take for the end whatever begins like it.
            if not event.startswith(sse.DONE):
                raise
            return self.read(sse.DONE)
        if chunk.usage is not None:
            self._take(chunk)
        for choice in chunk.choices or ():
            choice.write(self._written)
            if choice.finish_reason and len(self._ended) < MOST_APART:
                self._ended.add(choice.index)
        return chunk

    def _take(self, chunk: Chunk) -> None:
        tokens, source = meter(chunk.usage, self._bounds)
        if tokens is not None:
            self._reported = tokens, source
            if not chunk.choices:
                self._ended.update(self._written.choices)

    def body_ended(self) -> Chunk | None:
        if not self._ended or not self._ended.issuperset(self._written.choices):
            raise no_answer()
        self.done = True
        return None

    def reply(self) -> Reply:
        """Before the end a usage without any output is the prompt's alone: the output is counted then."""
        if self._reported is None:
            return Reply((), Tokens(), "estimated", written=self._written)
        tokens, source = self._reported
        if not (self.done or tokens.completion):
            return Reply((), tokens, "estimated", written=self._written)
        return Reply((), tokens, source)

    def closing(self, tokens: Tokens) -> bytes:
        return b""
