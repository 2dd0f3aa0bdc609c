"""Networks and addresses of clients, as people type them and as servers see them."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from django.conf import settings
from django.core.exceptions import ValidationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_network(text: str) -> Network:
    """A network in CIDR notation, or one address. Raises ``ValueError``, also where host bits are set."""
    network = ipaddress.ip_network(text)
    if getattr(network.network_address, "scope_id", None):
        raise ValueError("a zone means something on one host only")
    return network


def validate_network(text: str) -> None:
    """Raises ``ValidationError`` unless ``text`` is a network in CIDR notation, or one address."""
    try:
        parse_network(text)
    except ValueError as error:
        raise ValidationError(
            "Not a network in CIDR notation, such as 192.0.2.0/24", code="network"
        ) from error


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """An address, an IPv4 one taken out of the IPv6 it may be wrapped in. None for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def within(text: str, networks: Iterable[Network]) -> bool:
    """Whether an address lies in one of some networks. What is no address lies in none."""
    address = parse_address(text)
    return address is not None and any(address in network for network in networks)


def client_address(peer: str, forwarded: str) -> str:
    """The client's address: ``peer``, unless that is one of ``TRUSTED_PROXIES``.

    ``forwarded``: the value of X-Forwarded-For, several headers joined by commas. Each proxy of ours adds the one it
    was called by at the right; what is further left than the first stranger is anybody's to write.
    """
    if not settings.TRUSTED_PROXIES or not within(peer, settings.TRUSTED_PROXIES):
        return peer
    client = peer
    for hop in reversed(forwarded.split(",")):
        address = parse_address(hop.strip())
        if address is None:
            break
        client = str(address)
        if not within(client, settings.TRUSTED_PROXIES):
            break
    return client
