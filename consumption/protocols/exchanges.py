"""Which exchange there is for a request and an upstream, and how an upstream wants to be told who calls."""

from catalog.snapshot import Endpoint
from consumption.call import Routing
from consumption.dialects.base import PaidRequest
from consumption.errors import NotSupported
from consumption.protocols.base import Exchange
from consumption.protocols.chat_over_anthropic import ChatOverAnthropic
from consumption.protocols.messages_over_openai import MessagesOverOpenAi

#: The version of Anthropic's protocol that is spoken here; there has been no other since.
ANTHROPIC_VERSION = b"2023-06-01"


def exchange_of(request: PaidRequest, protocol: str) -> Exchange:
    """The way of a request to an upstream that speaks ``protocol``; the request itself where it speaks the same.

    Raises ``NotSupported`` where that protocol has no words for what is asked.
    """
    if request.protocol == protocol:
        return request
    return ChatOverAnthropic(request) if protocol == "anthropic" else MessagesOverOpenAi(request)


def routing_of(request: PaidRequest, endpoints: tuple[Endpoint, ...]) -> Routing:
    """The endpoints that a request can be said to. Raises ``NotSupported`` where there are none."""
    protocol = request.protocol
    if len(endpoints) == 1 and endpoints[0].protocol == protocol:
        return Routing(endpoints, {protocol: request})
    if all(endpoint.protocol == protocol for endpoint in endpoints):
        return Routing(endpoints, {request.protocol: request})
    exchanges: dict[str, Exchange] = {}
    refused: NotSupported | None = None
    for spoken in {endpoint.protocol for endpoint in endpoints}:
        try:
            exchanges[spoken] = exchange_of(request, spoken)
        except NotSupported as error:
            refused = error
    if refused is not None and not exchanges:
        raise refused
    return Routing(tuple(each for each in endpoints if each.protocol in exchanges), exchanges)


def auth_headers(protocol: str, credential: str | None) -> list[tuple[bytes, bytes]]:
    """The headers that a call to an upstream needs for its protocol and its credential; names are lower-case."""
    if protocol == "anthropic":
        version = [(b"anthropic-version", ANTHROPIC_VERSION)]
        return version if credential is None else [(b"x-api-key", credential.encode()), *version]
    return [] if credential is None else [(b"authorization", b"Bearer " + credential.encode())]
