"""The one way to write who a certificate is for; events name identities in this spelling only."""

from __future__ import annotations

from urllib.parse import quote


class NoIdentityError(ValueError):
    """There is no SPIFFE id for this name."""


def service_id(trust_domain: str, datacenter: str, service: str) -> str:
    """Return a service's SPIFFE id; raises NoIdentityError where there can be none."""
    return f"spiffe://{trust_domain}/ns/default/dc/{_escape(datacenter)}/svc/{_escape(service)}"


def _escape(segment: str) -> str:
    """Escape as Go's url.PathEscape does; raises NoIdentityError for what is no path segment."""
    if segment in {"", ".", ".."}:  # SPIFFE-ID, section 2.2
        raise NoIdentityError(f"{segment!r} cannot be part of a SPIFFE ID")
    try:
        return quote(segment, safe="$&+=:@", errors="strict")
    except UnicodeEncodeError as error:
        raise NoIdentityError(f"{segment!r} cannot be written as UTF-8") from error
