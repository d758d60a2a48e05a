from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys

import pytest

from services.nats_access import addresses


def test_every_address_of_this_machine_can_be_bound() -> None:
    found = addresses.local_addresses()

    assert ipaddress.ip_address("127.0.0.1") in found
    for address in found:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))


@pytest.mark.skipif(sys.platform != "linux", reason="iproute2 is Linux's")
def test_no_address_of_this_machine_is_left_out() -> None:
    told = subprocess.run(
        ["ip", "-o", "address", "show"], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in told.stdout.splitlines()]
    expected = {
        ipaddress.ip_interface(words[3]).ip for words in lines if words[2] in ("inet", "inet6")
    }

    found = set(addresses.local_addresses())

    assert found == {address for address in expected if not address.is_link_local}


@pytest.mark.parametrize(
    "name", ["ca", "ca.example", "*.example", "192.0.2.7", "2001:db8::1", "a_b.example"]
)
def test_a_name_or_address_that_a_certificate_can_hold_is_taken(name: str) -> None:
    assert addresses.check(name) == name


@pytest.mark.parametrize("name", ["", "a b", "300.1.1.1", "ä.example", "x-", "a..b", "a\n", "*"])
def test_what_is_neither_name_nor_address_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="neither a DNS name nor an IP address"):
        addresses.check(name)
