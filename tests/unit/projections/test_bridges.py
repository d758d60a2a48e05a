"""What the fold makes of bridges that a lying writer put on the ledger."""

from __future__ import annotations

from datetime import timedelta

import pytest

from events.authority import RootPruned, RootPublished
from projections import bridges
from projections.authority import AuthorityState
from projections.authority_fold import fold
from projections.verify import Verifier
from tests.factories import NOW
from tests.whole_ledger import WholeLedger, authority_events, root_certificate

V3 = bytes.fromhex("a003020102")
GARBAGE = (
    b"",
    b"garbage",
    root_certificate()[:-1],
    root_certificate().replace(V3, V3[:-1] + b"\x07"),  # a version that there is not
)


def published(root_id: str, cross_signed: bytes) -> RootPublished:
    return RootPublished(
        root_id=root_id,
        name="Consul CA Primary Cert",
        key_id="ab" * 32,
        key_type="ec",
        key_bits=256,
        external_trust_domain="x",
        certificate=root_certificate(),
        cross_signed=cross_signed,
        not_before=NOW - timedelta(hours=1),
        not_after=NOW + timedelta(days=1),
    )


def folded(ledger: WholeLedger) -> AuthorityState:
    state = AuthorityState(datacenter="dc1")
    for stored in ledger.stored:
        state = fold(state, stored)
    return state


@pytest.mark.parametrize("cross_signed", GARBAGE)
def test_what_is_no_certificate_ends_no_fold_and_no_auditor(cross_signed: bytes) -> None:
    ledger = WholeLedger()
    ledger.begin()
    ledger.decide(published("aa", cross_signed), *authority_events()[-1:])
    ledger.decide(RootPruned(root_id="aa", reason="aborted"))

    state = folded(ledger)
    verifier = Verifier("dc1")
    for stored in ledger.stored:
        verifier.check(stored)

    assert state.crossings == ()
    assert state.bridges == {}
    assert state.position == ledger.authority


def test_a_root_that_leads_to_itself_is_found_once() -> None:
    ledger = WholeLedger()
    ledger.begin()
    active = folded(ledger).active_root
    assert active is not None
    root_id = active.published.root_id
    ledger.decide(published(root_id, root_certificate()))

    state = folded(ledger)

    assert bridges.ways_to(state, root_id) == {root_id}
