"""Which addresses of others may be connected to. Endpoints are typed by people, and names resolve to anything."""

import ipaddress
import socket

from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: IPv6 that carries IPv4 in its last 32 bits, and is delivered there (RFC 6052). Its local-use sibling
#: 64:ff9b:1::/48 (RFC 8215) has no fixed place for them, so it is never public.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

#: Not public, whatever ``is_global`` of Python 3.11 says.
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's host: metadata, certificates of the machine
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890); a metadata service lives at 192.0.0.192
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "64:ff9b:1::/48",
        "2001::/23",  # IETF protocol assignments (RFC 2928); of them Teredo (RFC 4380), and 6to4 (RFC 3056) below, end
        "2002::/16",  # in an IPv4 host of anybody's choice. Releases of Python differ over the others.
        "3fff::/20",  # documentation (RFC 9637)
        "5f00::/16",  # segment routing (RFC 9602)
        "fec0::/10",  # site-local (RFC 3879)
    )
)


def may_connect(address: str) -> bool:
    """Whether an upstream may have this address: public, or in ``UPSTREAM_ALLOWED_NETWORKS``.

    Loopback, private, shared, link-local (metadata services live there), multicast and reserved addresses are not
    public, whichever way they are wrapped into IPv6. An address with a zone is one of this machine's own links.
    """
    parsed = _parsed(address)
    return parsed is not None and (_is_listed(parsed) or _is_public(parsed))


def is_listed(address: str) -> bool:
    """Whether an address is in ``UPSTREAM_ALLOWED_NETWORKS``."""
    parsed = _parsed(address)
    return parsed is not None and _is_listed(parsed)


def _parsed(address: str) -> Address | None:
    try:
        parsed = _unwrapped(ipaddress.ip_address(address))
    except ValueError:
        return None
    return None if isinstance(parsed, ipaddress.IPv6Address) and parsed.scope_id is not None else parsed


def _is_listed(address: Address) -> bool:
    return any(address in ipaddress.ip_network(network) for network in settings.UPSTREAM_ALLOWED_NETWORKS)


def _is_public(address: Address) -> bool:
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside a mapped or NAT64 one: that is where it is delivered."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def addresses_of(host: str, port: int) -> list[str]:
    """What a name resolves to now, in the resolver's order. Raises ``OSError`` where it resolves to nothing."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
