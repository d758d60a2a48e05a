"""What a signing request gets: the certificate that its id got before, a refusal, or a new leaf."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from events.authority import SanPolicy
from events.base import Struct
from events.leaves import LeafIssued
from projections.answers import Answer, IssuedLeaf, KeptRefusal
from projections.authority import AuthorityState, Issuer
from services.pki import certificates, leaf
from services.pki.csr import CheckedCsr
from services.refusals import RefusedError
from services.signer.request import SignRequest

NOT_YET: Final = frozenset({"rate_limited", "not_ready", "busy", "pending", "not_found"})
"""What may be answered otherwise later. All else is said of the request itself, for ever."""

_UNINITIALIZED = "CA is uninitialized and unable to sign certificates yet"  # Consul's text


class RefusedBeforeError(RefusedError):
    """The refusal that the ledger keeps as a request id's answer; it is not recorded again."""


class Terms(Struct):
    """What every new leaf has in common, under one grant and one configuration."""

    issuer: Issuer
    template: leaf.LeafTemplate
    root_not_after: datetime  # or of what is above it, where that ends sooner
    trust_domain: str
    ttl_seconds: int
    sans: SanPolicy


class Life(Struct):
    """A leaf's validity."""

    not_before: datetime
    not_after: datetime


def terms_of(state: AuthorityState, signing_key_id: str | None) -> Terms | None:
    """Return what a signer whose grant names this key issues under; None: it cannot issue yet."""
    issuer = state.issuers.get(signing_key_id) if signing_key_id is not None else None
    root = state.roots.get(issuer.root_id) if issuer is not None else None
    if issuer is None or root is None or state.configuration is None:
        return None
    return Terms(
        issuer=issuer,
        template=leaf.LeafTemplate(issuer.certificate),
        root_not_after=certificates.end_of_chain(root.published.certificate, *root.published.chain),
        trust_domain=state.configuration.trust_domain,
        ttl_seconds=state.configuration.config.leaf_cert_ttl_seconds,
        sans=state.configuration.config.sans,
    )


def ready(terms: Terms | None) -> Terms:
    """Return the terms; raises RefusedError `not_ready` while there are none."""
    if terms is None:
        raise RefusedError("not_ready", f"{_UNINITIALIZED}: no root certificate", retry_after=1.0)
    return terms


def repeated(
    request: SignRequest, csr_sha256: str | None, known: Answer | None
) -> IssuedLeaf | None:
    """Return what the request id got before; None: a new leaf is to be issued.

    `known` is what the ledger holds for this identity and request id. Raises RefusedError:
    `request_id_conflict` for another CSR under a known id, never somebody's certificate;
    `not_found` for a look-up of an id that is not known; RefusedBeforeError for an id that was
    refused for ever.
    """
    if isinstance(known, KeptRefusal):
        raise RefusedBeforeError(known.code, known.message)
    if request.csr_der is None:
        if known is None:
            raise RefusedError(
                "not_found", f"no certificate was issued for request id {request.request_id}"
            )
        return known
    if known is not None:
        same_csr(request.request_id, csr_sha256, known.leaf.csr_sha256)
    return known


def same_csr(request_id: str | None, csr_sha256: str | None, first_csr_sha256: str | None) -> None:
    """Raise RefusedError `request_id_conflict` unless both CSRs are the same bytes."""
    if csr_sha256 != first_csr_sha256:
        raise RefusedError(
            "request_id_conflict", f"request id {request_id} was used with another CSR"
        )


def life(terms: Terms, now: datetime) -> Life:
    """Return a new leaf's validity; raises RefusedError `not_ready` once its issuers expired.

    In Consul's order and words (section 2.5, step 10): the root first, then the intermediate.
    """
    leaf.check_alive(now, not_after=terms.root_not_after, issuer="root")
    not_before, not_after = leaf.validity(
        now,
        ttl_seconds=terms.ttl_seconds,
        issuer_not_before=terms.template.not_before,
        issuer_not_after=min(terms.template.not_after, terms.root_not_after),
    )
    return Life(not_before=not_before, not_after=not_after)


def tbs_of(terms: Terms, checked: CheckedCsr, *, identity: str, serial: int, life: Life) -> bytes:
    """Return the bytes that the issuer's key is to sign."""
    return terms.template.tbs(
        serial=serial,
        spki=checked.spki,
        key_id=checked.key_id,
        uri=identity,
        not_before=life.not_before,
        not_after=life.not_after,
        dns=checked.dns,
        ip=checked.ip,
    )


def leaf_of(
    terms: Terms,
    request: SignRequest,
    checked: CheckedCsr,
    *,
    identity: str,
    serial: int,
    life: Life,
    tbs: bytes,
    signature: bytes,
    signer: str,
    grant_sequence: int,
    requester: str | None,
) -> LeafIssued:
    """Return the event that records the certificate made of `tbs` and its signature."""
    return LeafIssued(
        request_id=request.request_id,
        identity=identity,
        kind=request.kind,
        name=request.name,
        serial=f"{serial:x}",
        key_id=checked.key_id,
        issuer_key_id=terms.issuer.key_id,
        not_before=life.not_before,
        not_after=life.not_after,
        certificate=certificates.assemble(tbs, signature, terms.template.issuer_key_type),
        csr_sha256=checked.csr_sha256,
        signer=signer,
        grant_sequence=grant_sequence,
        requester=requester,
        dns=checked.dns,
        ip=checked.ip,
    )
