"""Which addresses an upstream may have."""

from typing import Any

import pytest
from django.core.exceptions import ValidationError

from catalog.endpoints import validate_endpoint
from catalog.upstream_networks import may_connect

FORBIDDEN = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "fd00:ec2::254",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "nonsense",
    "",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_what_is_not_public_is_refused_however_it_is_wrapped(settings: Any, address: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    assert not may_connect(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_public_addresses_are_allowed(settings: Any, address: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    assert may_connect(address)


def test_a_private_installation_lists_its_networks(settings: Any) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = ["10.0.0.0/8"]
    assert may_connect("10.1.2.3")
    assert may_connect("::ffff:10.1.2.3")
    assert not may_connect("192.168.1.1")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9/v1", "http://localhost:9/v1", "http://[::1]:9/v1"])
def test_an_endpoint_is_judged_when_it_is_saved(settings: Any, endpoint: str) -> None:
    settings.UPSTREAM_ALLOWED_NETWORKS = []
    with pytest.raises(ValidationError, match="UPSTREAM_ALLOWED_NETWORKS"):
        validate_endpoint(endpoint)
    settings.UPSTREAM_ALLOWED_NETWORKS = ["127.0.0.0/8", "::1/128"]
    validate_endpoint(endpoint)
