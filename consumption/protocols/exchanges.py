"""Which exchange there is for a request and an upstream, and how an upstream wants to be told who calls."""

from consumption.dialects.base import PaidRequest
from consumption.protocols.anthropic import MessageExchange
from consumption.protocols.base import Exchange
from consumption.protocols.chat_over_anthropic import ChatOverAnthropic
from consumption.protocols.messages_over_openai import MessagesOverOpenAi
from consumption.protocols.openai import ChatExchange

#: The version of Anthropic's protocol that is spoken here; there has been no other since.
ANTHROPIC_VERSION = b"2023-06-01"

_EXCHANGES: dict[
    tuple[str, str], type[ChatExchange | MessageExchange | ChatOverAnthropic | MessagesOverOpenAi]
] = {
    ("openai", "openai"): ChatExchange,
    ("openai", "anthropic"): ChatOverAnthropic,
    ("anthropic", "anthropic"): MessageExchange,
    ("anthropic", "openai"): MessagesOverOpenAi,
}


def exchange_of(request: PaidRequest, protocol: str) -> Exchange:
    """The way of a request to an upstream that speaks ``protocol``.

    Raises ``NotSupported`` where that protocol has no words for what is asked.
    """
    return _EXCHANGES[request.protocol, protocol](request)


def auth_headers(protocol: str, credential: str | None) -> list[tuple[bytes, bytes]]:
    """The headers that a call to an upstream needs for its protocol and its credential; names are lower-case."""
    if protocol == "anthropic":
        version = [(b"anthropic-version", ANTHROPIC_VERSION)]
        return version if credential is None else [(b"x-api-key", credential.encode()), *version]
    return [] if credential is None else [(b"authorization", b"Bearer " + credential.encode())]
