"""Names in the mesh: SPIFFE ids as Consul writes and reads them (specification, section 2.2)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from events import identities
from events.base import Struct
from events.leaves import IdentityKind

MAX_LENGTH: Final = 2048  # bytes of a SPIFFE id (SPIFFE-ID, section 2.3)


class SpiffeIdError(ValueError):
    """The text is not a name that we know, in Consul's words."""


class ServiceId(Struct):
    """A service in a datacenter."""

    trust_domain: str  # the URI's host, as it was written
    partition: str = "default"
    namespace: str = "default"
    datacenter: str
    service: str


class AgentId(Struct):
    """A client agent: one node."""

    trust_domain: str
    partition: str = "default"
    datacenter: str
    node: str


class MeshGatewayId(Struct):
    """The mesh gateways of a datacenter."""

    trust_domain: str
    partition: str = "default"
    datacenter: str


class ServerId(Struct):
    """The servers of a datacenter, all under one name."""

    trust_domain: str
    datacenter: str


class SigningId(Struct):
    """A certificate authority of the trust domain."""

    trust_domain: str


SpiffeId = ServiceId | AgentId | MeshGatewayId | ServerId | SigningId

_URI = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?(?://(?P<authority>[^/?#]*))?"
    r"(?P<path>[^?#]*)(?:\?[^#]*)?(?:#.*)?",
    re.DOTALL,
)  # RFC 3986, appendix B
_NO_URI = re.compile(r"%(?![0-9A-Fa-f]{2})|[\x00-\x20\x7f]")  # half an escape, control characters
_SERVICE = re.compile(r"(?:/ap/([^/]+))?/ns/([^/]+)/dc/([^/]+)/svc/([^/]+)")
_AGENT = re.compile(r"(?:/ap/([^/]+))?/agent/client/dc/([^/]+)/id/([^/]+)")
_MESH_GATEWAY = re.compile(r"(?:/ap/([^/]+))?/gateway/mesh/dc/([^/]+)")
_SERVER = re.compile(r"/agent/server/dc/([^/]+)")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")


def trust_domain_of(cluster_id: str) -> str:
    """Return the trust domain that Consul gives a cluster."""
    return f"{cluster_id}.consul".lower()


def check_trust_domain(name: str) -> str:
    """Return a trust domain that somebody chose, in lower case; raises SpiffeIdError.

    It has to be a host name of at least two labels: Consul knows a signing id by the dot, and the
    host of a URI in a certificate is a fully qualified name (RFC 5280, 4.2.1.6).
    """
    lower = name.lower()
    labels = lower.split(".")
    if len(lower) > 255 or len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)):
        raise SpiffeIdError(f"{name!r} is not a trust domain: it takes a name like mesh.example")
    if labels[-1].isdigit():
        raise SpiffeIdError(f"{name!r} is not a trust domain: it looks like an address")
    return lower


def service_id(trust_domain: str, datacenter: str, service: str) -> str:
    """Return a service's SPIFFE id; raises SpiffeIdError where there can be none."""
    return identity_id("service", service, trust_domain=trust_domain, datacenter=datacenter)


def identity_id(kind: IdentityKind, name: str, *, trust_domain: str, datacenter: str) -> str:
    """Return the SPIFFE id of an identity; raises SpiffeIdError where there can be none."""
    try:
        uri = identities.identity_of(kind, name, trust_domain=trust_domain, datacenter=datacenter)
    except identities.NoIdentityError as error:
        raise SpiffeIdError(str(error)) from error
    if len(uri) > MAX_LENGTH:
        raise SpiffeIdError(f"SPIFFE ID is longer than {MAX_LENGTH} bytes")
    return uri


def signing_id(trust_domain: str) -> str:
    """Return the SPIFFE id of the trust domain's certificate authorities."""
    return f"spiffe://{trust_domain}"


def parse(uri: str) -> SpiffeId:
    """Read a SPIFFE id as Consul does; raises SpiffeIdError with Consul's texts.

    As lenient as Consul: host in any case, user, port, query, fragment. Whoever decides by a name
    compares the text of the whole URI too.
    """
    parts = _URI.fullmatch(uri)
    if parts is None or (parts["scheme"] or "").lower() != "spiffe":
        raise SpiffeIdError("SPIFFE ID must have 'spiffe' scheme")
    if not _NO_URI.search(uri):
        host, path = (parts["authority"] or "").rpartition("@")[2], parts["path"]
        if found := _with_path(host, path):
            return found
        if path == "" and host.find(".") > 0:
            return SigningId(trust_domain=host)
    raise SpiffeIdError(f"SPIFFE ID is not in the expected format: {uri}")


def _with_path(host: str, path: str) -> SpiffeId | None:
    """Match the escaped path, so that an escaped slash never moves a border (Consul's raw path)."""
    if match := _SERVICE.fullmatch(path):
        return ServiceId(
            trust_domain=host,
            partition=_partition(match[1]),
            namespace=_unescape("namespace", match[2]),
            datacenter=_unescape("datacenter", match[3]),
            service=_unescape("service", match[4]),
        )
    if match := _AGENT.fullmatch(path):
        return AgentId(
            trust_domain=host,
            partition=_partition(match[1]),
            datacenter=_unescape("datacenter", match[2]),
            node=_unescape("node", match[3]),
        )
    if match := _MESH_GATEWAY.fullmatch(path):
        return MeshGatewayId(
            trust_domain=host,
            partition=_partition(match[1]),
            datacenter=_unescape("datacenter", match[2]),
        )
    if match := _SERVER.fullmatch(path):
        return ServerId(trust_domain=host, datacenter=_unescape("datacenter", match[1]))
    return None


def _partition(escaped: str | None) -> str:
    return "default" if escaped is None else _unescape("admin partition", escaped)


def _unescape(what: str, escaped: str) -> str:
    if "%" not in escaped:
        return escaped
    try:
        return unquote_to_bytes(escaped).decode()
    except UnicodeDecodeError as error:
        raise SpiffeIdError(f"Invalid {what}: {escaped} is not UTF-8") from error
