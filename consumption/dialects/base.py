"""What a dialect is: how a call is read, and how its answer is told.

The gateway's steps are the same for all of them. A request that was parsed says what it can cost at most and what goes
upstream; the dialect turns replies, stream events and refusals into bytes.
"""

from decimal import Decimal
from typing import Any, Protocol

import msgspec

from common.errors import Problem
from consumption.call import Call, Terms
from consumption.prompts import Prompt
from consumption.protocols.base import Exchange
from consumption.replies import Chunk, Reply
from quotas.admission import Lease

#: Tokens a chat template may add to what the caller wrote: by message, and once (a default system prompt).
TEMPLATE_TOKENS_PER_MESSAGE = 16
TEMPLATE_TOKENS = 48
#: What one image can cost at most, whatever its bytes.
IMAGE_TOKENS = 16_384
#: What one file can: its pages cost as text and as images, and how many there are is not told by its bytes. No model
#: reads more at once.
DOCUMENT_TOKENS = 1_000_000
#: What an upstream adds where tools are given. Anthropic documents up to 804 tokens, and 735 for a tool of its own.
TOOLS_TOKENS = 1_024
MOST_CHOICES = 16
MOST_OUTPUT_TOKENS = 10_000_000
MOST_METADATA_BYTES = 1024


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer. Header names are lower-case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class PaidRequest(Exchange, Protocol):
    """A request that was read and checked, and its own exchange with an upstream of its protocol.

    ``protocol``: what it is written in, ``openai`` or ``anthropic``. ``service``: the id, or ``name`` or
    ``name@version``. ``max_tokens``: the output cap the caller named; None where they named none. ``writes``: whether
    there is any output to cap.
    """

    protocol: str
    service: str
    stream: bool
    writes: bool

    @property
    def choices(self) -> int: ...

    @property
    def max_tokens(self) -> int | None: ...

    @property
    def metadata(self) -> dict[str, Any] | None: ...

    def prompt_bound(self) -> int:
        """Tokens the prompt can cost at most: no tokenizer makes more tokens of a text than it has UTF-8 bytes."""

    def prompt(self) -> Prompt:
        """What the prompt is made of, for an upstream that does not report what it read."""


class Dialect(Protocol):
    """One way of speaking. ``request_id_header``: where its clients look for the id, if not in ``x-request-id``.

    ``name``: which dialect, and for which of its paths.
    """

    request_id_header: str | None

    @property
    def name(self) -> str: ...

    def parse(self, call: Call, *, most_bytes: int) -> PaidRequest:
        """The request in a call. Raises ``TooLarge``, ``Malformed`` or ``InvalidField``."""

    def success(self, call: Call, terms: Terms, lease: Lease, reply: Reply, cost: Decimal) -> Answer:
        """The answer of a call that was served, priced and settled."""

    def problem(self, error: Problem, request_id: str) -> Answer:
        """The answer of a refusal or failure."""

    def chunk(self, call: Call, request: PaidRequest, chunk: Chunk) -> bytes:
        """What the caller gets for one event of the upstream's stream; empty for nothing."""

    def last(self, call: Call, terms: Terms, request: PaidRequest, reply: Reply, cost: Decimal) -> bytes:
        """What ends a stream that was served, priced and settled."""

    def broken(self, error: Problem, request_id: str) -> bytes:
        """What ends a stream that failed: never what ends a good one."""
