"""Which addresses an upstream may have."""

import re
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from catalog.endpoints import origin_of, validate_endpoint
from common.upstream_networks import may_connect

#: Every class of address that is not public, with its edges.
FORBIDDEN = {
    "this network": ["0.0.0.0", "0.255.255.255", "::"],
    "loopback": ["127.0.0.1", "127.8.8.8", "127.255.255.255", "::1"],
    "private": ["10.0.0.1", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.0", "192.168.255.255"],
    "unique local": ["fc00::1", "fdff:ffff::1"],
    "shared (carrier NAT)": ["100.64.0.0", "100.127.255.255"],
    "link-local": ["169.254.0.0", "169.254.255.255", "fe80::1", "febf::1"],
    "site-local": ["fec0::1", "feff::1"],
    "metadata": [
        "169.254.169.254", "169.254.170.2", "fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192",
        "168.63.129.16",
    ],
    "protocol assignments": ["192.0.0.0", "192.0.0.8", "192.0.0.170", "192.0.0.255", "2001:1::1", "2001:1ff::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1", "3fff:fff::1"],
    "benchmarking": ["198.18.0.0", "198.19.255.255", "2001:2::1"],
    "multicast": ["224.0.0.1", "233.252.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.0", "255.255.255.254", "4000::1", "200::1", "e000::1"],
    "broadcast": ["255.255.255.255"],
    "discard, dummy, segment routing": ["100::1", "100:0:0:1::1", "5f00::1"],
    "overlay": ["2001:10::1", "2001:20::1"],
    "6to4 relay": ["192.88.99.1"],
    "mapped": [
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::ffff:100.64.0.1", "::ffff:0.0.0.0",
        "::ffff:168.63.129.16", "::FFFF:7F00:1", "0:0:0:0:0:ffff:7f00:0001",
    ],
    "compatible and translated": ["::127.0.0.1", "::ffff:0:127.0.0.1", "::ffff:0:1.1.1.1", "::1.1.1.1"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b::168.63.129.16"],
    "NAT64, local use": ["64:ff9b:1::127.0.0.1", "64:ff9b:1:7f00:0:100::", "64:ff9b:1::1.1.1.1"],
    "NAT64, next to it": ["64:ff9b:0:0:0:1::1", "64:ff9b:2::1"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "2002:101:101::1"],
    "Teredo": ["2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:0:101:101::fefe:fefe"],
    "with a zone": ["fe80::1%eth0", "fe80::1%1", "2606:4700:4700::1111%eth0", "::1%lo"],
    "no address": ["nonsense", "", "2130706433", "0177.0.0.1", "127.1", "0x7f.0.0.1", "1.1.1.1/32", " 1.1.1.1"],
}  # fmt: skip

PUBLIC = [
    "1.1.1.1", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "169.253.255.255",
    "169.255.0.0", "192.0.1.0", "223.255.255.255", "168.63.129.15", "192.88.98.255", "198.17.255.255", "198.20.0.0",
    "2606:4700:4700::1111", "2001:200::1", "2003::1", "2a00:1450:4001:81b::200e", "3ffe:ffff::1",
    "64:ff9b::1.1.1.1", "::ffff:1.1.1.1",
]  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [pytest.param(address, id=f"{kind}: {address}") for kind in FORBIDDEN for address in FORBIDDEN[kind]],
)
def test_what_is_not_public_is_refused_however_it_is_wrapped(settings: Any, address: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    assert not may_connect(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(settings: Any, address: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    assert may_connect(address)


def test_a_private_installation_lists_its_networks(settings: Any) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = ["10.0.0.0/8", "64:ff9b:1::/48"]
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "64:ff9b:1::1"):
        assert may_connect(address)
    # What is delivered elsewhere, or through somebody's relay, is not in the network that it names.
    for address in ("192.168.1.1", "::ffff:192.168.1.1", "2002:a01:203::1", "2001:0:a01:203::1"):
        assert not may_connect(address)


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:9/v1", "http://localhost:9/v1", "http://LOCALHOST:9/v1", "http://[::1]:9/v1", "https://10.0.0.1/v1",
        "http://[::ffff:169.254.169.254]/latest", "http://169.254.169.254/", "http://0.0.0.0/v1", "http://[::]/v1",
        "http://[64:ff9b::7f00:1]/v1", "http://[2002:7f00:1::]/v1", "http://[fd00:ec2::254]/", "http://255.255.255.255/v1",
    ],
)  # fmt: skip
def test_an_endpoint_is_judged_when_it_is_saved(settings: Any, endpoint: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    with pytest.raises(ValidationError, match="UPSTREAM_ALLOWED_NETWORKS"):
        validate_endpoint(endpoint)
    settings.UPSTREAM_ALLOWED_NETWORKS = ["0.0.0.0/0", "::/0"]
    validate_endpoint(endpoint)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.0.0.1", "127.1", "127.0.1", "127.0.0.1.",
        "127.0.0.01", "127.0.0.0x1", "0x", "256.1.1.1", "1.1.1.1.1", "16843009", "a.1", "[fe80::1%25eth0]",
        "[fe80::1%eth0]", "[2606:4700::1111%251]", "[::1%25lo]", "[v1.x]", "[1.1.1.1]", "%31%32%37.0.0.1",
        "loc%61lhost", "a\\b", "a..b", ".a", "a,b", "a;b", "a'b", "x" * 64, "*",
    ],
)  # fmt: skip
def test_a_host_that_can_be_read_in_two_ways_is_refused_even_where_all_is_allowed(
    settings: Any, host: str
) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = ["0.0.0.0/0", "::/0"]
    with pytest.raises(ValidationError) as refused:
        validate_endpoint(f"http://{host}/v1")
    assert re.match(r"The endpoint('s host is no name| is not a URL)", refused.value.messages[0])


@pytest.mark.parametrize("host", ["①②⑦.⓪.⓪.①", "\uff11\uff12\uff17.0.0.1", "127。0。0。1", "loc\u00adalhost"])
def test_what_unicode_folds_into_an_address_is_refused(settings: Any, host: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = ["0.0.0.0/0", "::/0"]
    with pytest.raises(ValidationError, match=r"character that no URL has|not a URL"):
        validate_endpoint(f"http://{host}/v1")


@pytest.mark.parametrize(
    "host", ["llm.invalid", "llm-1.my_host.invalid.", "LLM.invalid", "xn--bcher-kva.invalid", "0x1g", "1a"]
)
def test_a_name_that_does_not_resolve_may_be_saved(settings: Any, host: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    validate_endpoint(f"https://{host}:8443/v1")


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a/v1", "http://a:80"), ("https://A/", "https://a:443"), ("https://a:8443", "https://a:8443"),
        ("http://[::1]:9/v1", "http://::1:9"),
    ],
)  # fmt: skip
def test_an_origin_is_scheme_host_and_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin
