"""Which DNS names and IP addresses a leaf may carry beside its SPIFFE id.

Consul copies whatever a request asks for, so that whoever may become `web` can carry the name of
any host (H8).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final

from events.authority import AllowedNames, SanPolicy

DNS_MAX: Final = 253  # RFC 1035, 2.3.4

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123, 2.1
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_PLACEHOLDERS: Final = frozenset({"name", "datacenter", "trust_domain"})

DEFAULT: Final = SanPolicy(
    service=AllowedNames(
        dns=(
            "{name}.service.consul",
            "{name}.service.{datacenter}.consul",
            "{name}.connect.consul",
            "{name}.connect.{datacenter}.consul",
            "{name}.virtual.consul",
            "{name}.virtual.{datacenter}.consul",
            "{name}.default.{datacenter}.internal.{trust_domain}",
        )
    ),
    agent=AllowedNames(dns=("localhost",), ip=("127.0.0.1", "::1")),
    server=AllowedNames(
        dns=("localhost", "server.{datacenter}.peering.{trust_domain}"), ip=("127.0.0.1", "::1")
    ),
)
"""Where the configuration says nothing: a service's own names in Consul's DNS and its SNI, this
machine for agents and servers, and the name that Consul's servers have for peers."""


def check_pattern(pattern: str) -> str:
    """Return a pattern of DNS names that somebody chose, in lower case; raises ValueError."""
    lowered = pattern.lower()
    for placeholder in _PLACEHOLDER.findall(lowered):
        if placeholder not in _PLACEHOLDERS:
            raise ValueError(
                f"{pattern!r}: {{{placeholder}}} stands for nothing; "
                "{name}, {datacenter} and {trust_domain} do"
            )
    if not is_name(_PLACEHOLDER.sub("a", lowered).removeprefix("*.")):
        raise ValueError(f"{pattern!r} is no pattern of DNS names")
    return lowered


def check_network(network: str) -> str:
    """Return an address or a network that somebody chose as it is written; raises ValueError."""
    parsed = ipaddress.ip_network(network)
    return str(parsed if "/" in network else parsed.network_address)


def is_name(name: str) -> bool:
    """Say whether a text is a DNS name of lower-case labels, without a dot at its end."""
    return len(name) <= DNS_MAX and all(map(_LABEL.fullmatch, name.split(".")))


def allows_name(
    allowed: AllowedNames, asked: str, *, name: str, datacenter: str, trust_domain: str
) -> bool:
    """Say whether a leaf may carry a DNS name; `name` is what it is for.

    Of a name that is no single DNS label nothing follows: `a.b` would otherwise have a name that
    belongs to `b`, with the tag `a`.
    """
    values = {
        "name": name.lower() if _LABEL.fullmatch(name.lower()) else None,
        "datacenter": datacenter,
        "trust_domain": trust_domain,
    }
    return any(_matches(pattern, asked, values) for pattern in allowed.dns)


def allows_address(allowed: AllowedNames, asked: IpAddress) -> bool:
    """Say whether a leaf may carry an address."""
    return any(_within(asked, ipaddress.ip_network(network)) for network in allowed.ip)


def _matches(pattern: str, asked: str, values: dict[str, str | None]) -> bool:
    names: Iterable[str] = _PLACEHOLDER.findall(pattern)
    if any(values.get(name) is None for name in names):
        return False
    meant = _PLACEHOLDER.sub(lambda found: values[found[1]] or "", pattern)
    if not meant.startswith("*."):
        return asked == meant
    label, _, rest = asked.partition(".")
    return rest == meant.removeprefix("*.") and (label == "*" or bool(_LABEL.fullmatch(label)))


def _within(asked: IpAddress, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    return asked.version == network.version and asked in network
