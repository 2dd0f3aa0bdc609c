"""What an exchange is: one request on its way to an upstream, and the answer on its way back.

A paid call does not know which protocol its upstream speaks. It asks the exchange for the path and the body, hands it
what the upstream answers, and gets replies and chunks in the protocol that the caller speaks.
"""

from typing import Literal, Protocol

from catalog.pricing import Tokens
from consumption.replies import Bounds, Chunk, Reply

Name = Literal["openai", "anthropic"]


class StreamReader(Protocol):
    """One stream of an upstream, event by event. ``done``: its regular end has come."""

    done: bool

    def read(self, event: bytes) -> Chunk | None:
        """What one event's data means to the caller; None where it is nothing. Raises ``UpstreamFailed``."""

    def body_ended(self) -> Chunk | None:
        """The answer's body has ended, as HTTP says, but not as the protocol does: ``done``, where nothing is missing.

        What that means to the caller is as of ``read``. Raises ``UpstreamFailed`` where the answer is not whole.
        """

    def reply(self) -> Reply:
        """What was used so far, within the bounds, as it was reported; else what is to be counted."""

    def closing(self, tokens: Tokens) -> bytes:
        """What ends the answer in the caller's protocol and tells its tokens; empty where the dialect alone ends it."""


class Exchange(Protocol):
    """How one request goes to an upstream of one protocol and comes back in its caller's.

    ``path``: appended to the upstream's base URL. ``headers``: lines that this request sends along besides what every
    request of the protocol does, each with its end.
    """

    path: str
    headers: bytes

    def upstream_body(self, *, model: str, output_cap: int) -> bytes:
        """What is posted. ``model``: as the upstream knows it; ``output_cap``: tokens for each choice.

        A stream asks for its usage, whether or not the caller did.
        """

    def reply(self, body: bytes, bounds: Bounds) -> Reply:
        """The reply in a 200's body. Raises ``UpstreamFailed`` where it is none."""

    def reader(self, bounds: Bounds) -> StreamReader:
        """What reads a 200 that is a stream."""
