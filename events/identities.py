"""The one way to write who a certificate is for; events name identities in this spelling only."""

from __future__ import annotations

from typing import assert_never
from urllib.parse import quote

from events.leaves import IdentityKind


class NoIdentityError(ValueError):
    """There is no SPIFFE id for this name."""


def service_id(trust_domain: str, datacenter: str, service: str) -> str:
    """Return a service's SPIFFE id; raises NoIdentityError where there can be none."""
    return f"spiffe://{trust_domain}/ns/default/dc/{_escape(datacenter)}/svc/{_escape(service)}"


def agent_id(trust_domain: str, datacenter: str, node: str) -> str:
    """Return a client agent's SPIFFE id; raises NoIdentityError where there can be none."""
    return f"spiffe://{trust_domain}/agent/client/dc/{_escape(datacenter)}/id/{_escape(node)}"


def gateway_id(trust_domain: str, datacenter: str) -> str:
    """Return the SPIFFE id of a datacenter's mesh gateways."""
    return f"spiffe://{trust_domain}/gateway/mesh/dc/{_escape(datacenter)}"


def server_id(trust_domain: str, datacenter: str) -> str:
    """Return the SPIFFE id of a datacenter's servers."""
    return f"spiffe://{trust_domain}/agent/server/dc/{_escape(datacenter)}"


def identity_of(kind: IdentityKind, name: str, *, trust_domain: str, datacenter: str) -> str:
    """Return the SPIFFE id that a kind and a name stand for; raises NoIdentityError."""
    match kind:
        case "service":
            return service_id(trust_domain, datacenter, name)
        case "agent":
            return agent_id(trust_domain, datacenter, name)
        case "gateway":
            _check_nameless(kind, name)
            return gateway_id(trust_domain, datacenter)
        case "server":
            _check_nameless(kind, name)
            return server_id(trust_domain, datacenter)
        case _:
            assert_never(kind)


def _check_nameless(kind: str, name: str) -> None:
    if name:
        raise NoIdentityError(f"a {kind} has no name: {name!r}")


def _escape(segment: str) -> str:
    """Escape as Go's url.PathEscape does; raises NoIdentityError for what is no path segment."""
    if segment in {"", ".", ".."}:  # SPIFFE-ID, section 2.2
        raise NoIdentityError(f"{segment!r} cannot be part of a SPIFFE ID")
    try:
        return quote(segment, safe="$&+=:@", errors="strict")
    except UnicodeEncodeError as error:
        raise NoIdentityError(f"{segment!r} cannot be written as UTF-8") from error
