"""Bridges: what the root before signed of a new one, for verifiers that are late."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from msgspec.structs import replace

from events.envelope import Recorded
from projections.authority import AuthorityState, Revoked, Root


def above(state: AuthorityState, root: Root, at: datetime) -> tuple[bytes, ...]:
    """Return what verifiers need between what signs leaves and their trust anchors.

    The bridge from the root before, unless it has expired; then, of a root that others signed,
    itself and those above it without the anchor: who trusts that alone cannot know them. In this
    order, since OpenSSL and GnuTLS take the first of two certificates for one key and look at no
    other: who has a bundle, this one or the one before, finds a way either way. Once the root
    before is not trusted any more, who trusts the anchor alone comes first. What is above the
    root before is left out: GnuTLS would not find the new root's own trust then.
    """
    published, cross_signed = root.published, root.published.cross_signed
    own = (published.certificate, *published.chain[:-1]) if published.chain else ()
    if cross_signed is None or (_ends(cross_signed) or at) <= at:
        return own
    return (cross_signed, *own) if root.crossed_by in state.roots else (*own, cross_signed)


def _ends(certificate: bytes) -> datetime | None:
    try:
        return x509.load_der_x509_certificate(certificate).not_valid_after_utc
    except ValueError:
        return None  # `verify` says so


def revoked(state: AuthorityState, root: Root, recorded: Recorded) -> AuthorityState:
    """Revoke, with a root, what the root before signed of it: it would be a way around.

    It stays revoked should the root come again, which gets another bridge then.
    """
    by = state.roots.get(root.crossed_by or "")
    if by is None or root.published.cross_signed is None:
        return state
    try:
        bridge = x509.load_der_x509_certificate(root.published.cross_signed)
    except ValueError:
        return state
    key_id = by.published.key_id
    entry = Revoked(
        sequence=recorded.sequence,
        identity=root.published.root_id,
        at=recorded.envelope.time,
        reason="cessation_of_operation",
        not_after=bridge.not_valid_after_utc,
    )
    ours = {**state.bridges.get(key_id, {}), f"{bridge.serial_number:032x}": entry}
    return replace(
        state,
        bridges={**state.bridges, key_id: ours},
        revoked_sequence={**state.revoked_sequence, key_id: recorded.sequence},
    )
