"""What is trusted now: Consul's Roots (specification, sections 1.1 and 1.2), from the authority."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import field

from events.base import Struct, utc
from projections.authority import AuthorityState, Issuer, Root

_SERIAL_MASK: Final = (1 << 64) - 1  # Consul's SerialNumber is a uint64


class BundleRoot(Struct):
    """A trusted root, in Consul's words."""

    id: str = field(name="ID")
    name: str = field(name="Name")
    serial_number: int = field(name="SerialNumber")  # Consul's: its low 64 bits, for 53 read right
    serial_number_hex: str = field(name="SerialNumberHex")  # the whole of it, colon hex (H15)
    signing_key_id: str = field(name="SigningKeyID")
    external_trust_domain: str = field(name="ExternalTrustDomain")
    not_before: datetime = field(name="NotBefore")
    not_after: datetime = field(name="NotAfter")
    root_cert: str = field(name="RootCert")  # PEM; with its chain, if it has one
    intermediate_certs: tuple[str, ...] | None = field(name="IntermediateCerts")
    active: bool = field(name="Active")
    private_key_type: str = field(name="PrivateKeyType")
    private_key_bits: int = field(name="PrivateKeyBits")
    create_index: int = field(name="CreateIndex")
    modify_index: int = field(name="ModifyIndex")


class Roots(Struct):
    """The trust bundle, and the sequence of the entry that last changed it."""

    active_root_id: str = field(name="ActiveRootID")  # "" while none is
    trust_domain: str = field(name="TrustDomain")
    roots: tuple[BundleRoot, ...] = field(name="Roots")
    ledger_sequence: int = field(name="LedgerSequence")


def bundle(state: AuthorityState) -> Roots | None:
    """Return the trust bundle; None before there is a root.

    Raises ValueError where the ledger holds a certificate that is none.
    """
    if state.configuration is None or not state.roots:
        return None
    active = state.active_root
    return Roots(
        active_root_id=active.published.root_id if active is not None else "",
        trust_domain=state.configuration.trust_domain,
        roots=tuple(_root(root, _issuer_of(root, state)) for root in state.roots.values()),
        ledger_sequence=state.bundle_sequence,
    )


def _issuer_of(root: Root, state: AuthorityState) -> Issuer | None:
    """Return what signs, or signed last, leaves under a root: Consul's row keeps it too."""
    below = [
        issuer for issuer in state.issuers.values() if issuer.root_id == root.published.root_id
    ]
    if state.issuer in below:
        return state.issuer
    return below[-1] if below else None


def _root(root: Root, issuer: Issuer | None) -> BundleRoot:
    published = root.published
    certificate = x509.load_der_x509_certificate(published.certificate)
    # Cross-signed first; the one that signs leaves is always last (section 1.1).
    bridge = published.cross_signed
    handed_out = bridge is not None and (issuer is None or bridge in issuer.chain)
    intermediates = [bridge] if bridge is not None and handed_out else []
    if issuer is not None and issuer.certificate != published.certificate:
        intermediates.append(issuer.certificate)
    return BundleRoot(
        id=published.root_id,
        name=published.name,
        serial_number=certificate.serial_number & _SERIAL_MASK,
        serial_number_hex=_colon_hex(_even(f"{certificate.serial_number:x}")),
        signing_key_id=_colon_hex(issuer.key_id if issuer is not None else published.key_id),
        external_trust_domain=published.external_trust_domain,
        not_before=utc(published.not_before),
        not_after=utc(published.not_after),
        root_cert=_pem(published.certificate) + "".join(_pem(der) for der in published.chain),
        intermediate_certs=tuple(_pem(der) for der in intermediates) or None,
        active=root.active,
        private_key_type=published.key_type,
        private_key_bits=published.key_bits,
        create_index=root.created,
        modify_index=root.modified,
    )


def _pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def _even(digits: str) -> str:
    return digits.rjust(len(digits) + len(digits) % 2, "0")


def _colon_hex(text: str) -> str:
    return ":".join(text[i : i + 2] for i in range(0, len(text), 2))
