"""Names beside the SPIFFE id: as the policy says, and no other."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from events.authority import AllowedNames
from services.pki import sans


def allows(pattern: str, asked: str, *, name: str = "web") -> bool:
    allowed = AllowedNames(dns=(sans.check_pattern(pattern),))
    return sans.allows_name(
        allowed, asked, name=name, datacenter="dc1", trust_domain="11111111.consul"
    )


@pytest.mark.parametrize(
    ("pattern", "asked", "allowed"),
    [
        ("{name}.service.consul", "web.service.consul", True),
        ("{name}.service.consul", "api.service.consul", False),
        ("{name}.service.consul", "web.service.consul.evil", False),
        ("{name}.{datacenter}.{trust_domain}", "web.dc1.11111111.consul", True),
        ("*.web.example", "a.web.example", True),
        ("*.web.example", "*.web.example", True),
        ("*.web.example", "a.b.web.example", False),
        ("*.web.example", "web.example", False),
        ("*.web.example", ".web.example", False),
        ("web.example", "*.example", False),
        ("WEB.example", "web.example", True),
        ("*.{name}.example", "x.web.example", True),
    ],
)
def test_a_name_is_allowed_by_a_pattern_that_is_all_of_it(
    pattern: str, asked: str, allowed: bool
) -> None:
    assert allows(pattern, asked) == allowed


@pytest.mark.parametrize("name", ["a.web", "*", "we_b", "", "{name}", "w" * 64, "ü", "web-"])
def test_of_a_name_that_is_no_dns_label_nothing_follows(name: str) -> None:
    """In Consul's DNS `a.web.service.consul` is the service `web` with the tag `a`."""
    assert not allows("{name}.service.consul", f"{name}.service.consul", name=name)


def test_a_name_in_capitals_has_the_name_in_small_ones() -> None:
    assert allows("{name}.service.consul", "web.service.consul", name="Web")


@pytest.mark.parametrize(
    "pattern", ["", "*", "*.", "a..b", "{x}.b", "{name", "a b", "*.*.b", "a.*.b", "-a", "a" * 254]
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern of DNS names|stands for nothing"):
        sans.check_pattern(pattern)


@pytest.mark.parametrize(
    ("network", "asked", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("::1", "::1", True),
        ("::/0", "127.0.0.1", False),
        ("0.0.0.0/0", "::ffff:127.0.0.1", False),
    ],
)
def test_an_address_is_allowed_by_a_network_that_it_is_in(
    network: str, asked: str, allowed: bool
) -> None:
    policy = AllowedNames(ip=(sans.check_network(network),))

    assert sans.allows_address(policy, ip_address(asked)) == allowed


@pytest.mark.parametrize("network", ["", "x", "10.0.0.1/8", "10.0.0.0/33", "1.2.3"])
def test_what_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits|address"):
        sans.check_network(network)


def test_the_default_gives_a_service_its_own_names_and_no_address() -> None:
    policy = sans.DEFAULT.service

    assert sans.allows_name(
        policy, "web.service.dc1.consul", name="web", datacenter="dc1", trust_domain="t.consul"
    )
    assert not sans.allows_name(
        policy, "api.service.dc1.consul", name="web", datacenter="dc1", trust_domain="t.consul"
    )
    assert not sans.allows_address(policy, ip_address("127.0.0.1"))
    assert sans.allows_address(sans.DEFAULT.agent, ip_address("::1"))
