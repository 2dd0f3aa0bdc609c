"""Whose address a call comes from."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from common.networks import client_address, parse_network, validate_network, within

PROXIES = ["10.0.0.0/8", "2001:db8:f::/48"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "203.0.113.9, 198.51.100.1,10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "203.0.113.9, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.9, ", "10.0.0.1"),
        ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("2001:db8:f::1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_only_what_a_trusted_proxy_saw_is_believed(
    settings: Any, peer: str, forwarded: str, client: str
) -> None:
    assert client_address(peer, forwarded) == peer
    settings.TRUSTED_PROXIES = [parse_network(network) for network in PROXIES]
    assert client_address(peer, forwarded) == client


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/8", "10.0.0.0/33", "fe80::1%eth0", "example.org", "10.0.0.0/8 "]
)
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        validate_network(text)


def test_an_address_lies_in_a_network_however_it_is_written() -> None:
    networks = [parse_network("192.0.2.0/24")]
    assert within("192.0.2.255", networks)
    assert within("::ffff:192.0.2.1", networks)
    for outside in ("192.0.3.0", "2001:db8::1", "", "192.0.2.1:80"):
        assert not within(outside, networks)
