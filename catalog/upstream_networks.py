"""Which addresses a gateway may connect to. A service's endpoint is typed by people, and names resolve to anything."""

import ipaddress
import socket

from django.conf import settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: IPv6 that carries IPv4 in its last 32 bits, and is delivered there (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def may_connect(address: str) -> bool:
    """Whether an upstream may have this address: public, or in ``UPSTREAM_ALLOWED_NETWORKS``.

    Loopback, private, link-local (metadata services live there), multicast and reserved addresses are not public,
    whichever way they are wrapped into IPv6.
    """
    try:
        parsed = _unwrapped(ipaddress.ip_address(address))
    except ValueError:
        return False
    if any(parsed in ipaddress.ip_network(network) for network in settings.UPSTREAM_ALLOWED_NETWORKS):
        return True
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _unwrapped(address: Address) -> Address:
    """The IPv4 address inside a mapped, 6to4, Teredo or NAT64 one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def addresses_of(host: str, port: int) -> list[str]:
    """What a name resolves to now, in the resolver's order. Raises ``OSError`` where it resolves to nothing."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
