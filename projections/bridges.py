"""Bridges: what the root before signed of a new one, for verifiers that are late."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from msgspec.structs import replace

from events.authority import RootPublished
from events.envelope import Recorded
from projections.authority import AuthorityState, Crossing, Revoked, Root
from projections.unreadable import UNREADABLE


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
    bridge = next((one for one in reversed(state.crossings) if _is_of(one, root)), None)
    if cross_signed is None or bridge is None or bridge.not_after <= at:
        return own
    return (cross_signed, *own) if root.crossed_by in state.roots else (*own, cross_signed)


def _is_of(bridge: Crossing, root: Root) -> bool:
    return (bridge.root_id, bridge.by) == (root.published.root_id, root.crossed_by)


def crossing(published: RootPublished, by: Root) -> Crossing | None:
    """Return what a new root's bridge is; None where it cannot be read: `verify` says so."""
    assert published.cross_signed is not None
    try:
        bridge = x509.load_der_x509_certificate(published.cross_signed)
        return Crossing(
            root_id=published.root_id,
            key_id=published.key_id,
            by=by.published.root_id,
            serial=f"{bridge.serial_number:x}",
            not_after=bridge.not_valid_after_utc,
        )
    except UNREADABLE:
        return None


def ways_to(state: AuthorityState, root_id: str) -> frozenset[str]:
    """Return a root and all that lead to it, over bridges that there ever were.

    Also over roots that are trusted no more: their bridges still are certificates.
    """
    roots = {**state.pruned, **state.roots}
    if root_id not in roots:
        return frozenset({root_id})
    seen, keys = {root_id}, {roots[root_id].published.key_id}
    found = True
    while found:
        found = False
        for one in state.crossings:
            if one.key_id in keys and one.by not in seen and one.by in roots:
                seen.add(one.by)
                keys.add(roots[one.by].published.key_id)
                found = True
    return frozenset(seen)


def revoked(state: AuthorityState, root: Root, recorded: Recorded) -> AuthorityState:
    """Revoke, with a root, what trusted roots signed of it: it would be a way around.

    It stays revoked should the root come again, which gets another bridge then.
    """
    for one in state.crossings:
        by = state.roots.get(one.by)
        if one.root_id != root.published.root_id or by is None:
            continue
        key_id = by.published.key_id
        entry = Revoked(
            sequence=recorded.sequence,
            identity=one.root_id,
            at=recorded.envelope.time,
            reason="cessation_of_operation",
            not_after=one.not_after,
        )
        if one.serial in state.bridges.get(key_id, {}):
            continue
        ours = {**state.bridges.get(key_id, {}), one.serial: entry}
        state = replace(
            state,
            bridges={**state.bridges, key_id: ours},
            revoked_sequence={**state.revoked_sequence, key_id: recorded.sequence},
        )
    return state
