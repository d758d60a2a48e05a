"""What a request gets: what its id got before, a refusal, or a new leaf."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from msgspec.structs import replace

from events.leaves import LeafIssued
from events.subjects import partition_of
from projections.answers import IssuedLeaf
from projections.authority import AuthorityState
from projections.authority_fold import fold
from services.pki import csr as csr_module
from services.refusals import RefusedError
from services.signer import decide
from services.signer.decide import Terms
from services.signer.request import SignRequest
from tests import factories, whole_ledger
from tests.factories import NOW, WEB, csr
from tests.ledger import leaf as leaf_event
from tests.ledger import ulid


def request(*, request_id: str | None = "r1", der: bytes | None = b"csr") -> SignRequest:
    return SignRequest(
        kind="service",
        name="web",
        partition=partition_of("service", "web"),
        request_id=request_id,
        csr_der=der,
    )


def known(csr_sha256: str = "c" * 64) -> IssuedLeaf:
    event = leaf_event(ulid(), grant=3, request_id="r1")
    assert isinstance(event.event, LeafIssued)
    issued = replace(event.event, csr_sha256=csr_sha256)
    return IssuedLeaf(
        sequence=9,
        position=0,
        event_id=event.id,
        leaf=issued,
        irregular=None,
    )


def authority() -> AuthorityState:
    """Return what `authority` of the whole ledger says."""
    state = AuthorityState(datacenter="dc1")
    for stored in whole_ledger.small_ledger().stored:
        if stored.subject == whole_ledger.SUBJECTS.authority:
            state = fold(state, stored)
    return state


def terms(ttl_seconds: int = 3600) -> Terms:
    found = decide.terms_of(authority(), whole_ledger.key_id(whole_ledger.SIGNING_KEY))
    assert found is not None
    return replace(found, ttl_seconds=ttl_seconds)


def code(error: pytest.ExceptionInfo[RefusedError]) -> str:
    return error.value.code


def test_the_same_csr_under_a_known_id_gets_what_it_got_before() -> None:
    before = known("a" * 64)

    assert decide.repeated(request(), "a" * 64, before) is before


def test_another_csr_under_a_known_id_is_a_conflict() -> None:
    with pytest.raises(RefusedError) as refused:
        decide.repeated(request(), "b" * 64, known("a" * 64))

    assert code(refused) == "request_id_conflict"


def test_a_look_up_gets_what_the_id_got() -> None:
    before = known()

    assert decide.repeated(request(der=None), None, before) is before


def test_a_look_up_of_an_unknown_id_is_not_found() -> None:
    with pytest.raises(RefusedError) as refused:
        decide.repeated(request(der=None), None, None)

    assert code(refused) == "not_found"


def test_an_unknown_id_gets_a_new_leaf() -> None:
    assert decide.repeated(request(), "a" * 64, None) is None


def test_without_an_authority_nothing_can_be_issued() -> None:
    empty = AuthorityState(datacenter="dc1")

    assert decide.terms_of(empty, None) is None
    with pytest.raises(RefusedError, match="CA is uninitialized and unable to sign") as refused:
        decide.ready(decide.terms_of(empty, "a" * 64))
    assert code(refused) == "not_ready"
    assert refused.value.retry_after is not None


def test_a_grant_whose_key_has_no_certificate_cannot_issue() -> None:
    assert decide.terms_of(authority(), "0" * 64) is None


def test_after_the_roots_end_nothing_is_issued_in_consuls_words() -> None:
    late = replace(terms(), root_not_after=NOW)

    with pytest.raises(RefusedError) as refused:
        decide.life(late, NOW + timedelta(seconds=1))

    assert code(refused) == "not_ready"
    assert refused.value.message == (
        "root expired: certificate expired, expiration date: 2026-08-01 12:00:00 +0000 UTC"
    )


def test_after_the_intermediates_end_nothing_is_issued_in_consuls_words() -> None:
    issuer_end = terms().template.not_after

    with pytest.raises(RefusedError, match="intermediate expired: certificate expired") as refused:
        decide.life(terms(), issuer_end + timedelta(seconds=1))

    assert code(refused) == "not_ready"


def test_no_leaf_outlives_its_issuer() -> None:
    """Failure F18."""
    life = decide.life(terms(ttl_seconds=20 * 365 * 86400), NOW)

    assert life.not_after == terms().template.not_after


def test_the_event_tells_exactly_the_certificate() -> None:
    agreed = terms()
    der = csr()
    checked = csr_module.check(
        der,
        csr_module.Asker(
            identity=WEB,
            kind="service",
            name="web",
            trust_domain=factories.TRUST_DOMAIN,
            datacenter="dc1",
        ),
    )
    life = decide.life(agreed, NOW)
    serial = factories.SERIAL
    tbs = decide.tbs_of(agreed, checked, identity=WEB, serial=serial, life=life)
    signing_key = factories.ca_key(number=whole_ledger.SIGNING_KEY)

    event = decide.leaf_of(
        agreed,
        request(der=der),
        checked,
        identity=WEB,
        serial=serial,
        life=life,
        tbs=tbs,
        signature=factories.sign_with(signing_key, tbs),
        signer=ulid(),
        grant_sequence=7,
        requester="UABC",
    )

    made = x509.load_der_x509_certificate(event.certificate)
    made.verify_directly_issued_by(x509.load_der_x509_certificate(agreed.issuer.certificate))
    assert int(event.serial, 16) == made.serial_number == serial
    assert (event.not_before, event.not_after) == (
        made.not_valid_before_utc,
        made.not_valid_after_utc,
    )
    assert event.issuer_key_id == agreed.issuer.key_id
    assert (event.key_id, event.csr_sha256) == (checked.key_id, checked.csr_sha256)
    assert (event.identity, event.name, event.kind) == (WEB, "web", "service")
    assert (event.request_id, event.grant_sequence, event.requester) == ("r1", 7, "UABC")
