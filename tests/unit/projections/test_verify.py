"""The verifier: silent on a ledger with nothing wrong; of each damage it names place and check."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from msgspec.structs import replace

from events.base import PARTITIONS
from events.envelope import Stored
from events.leadership import LeadershipAcquired
from events.leaves import LeafIssued
from events.signers import GrantGiven
from projections.verify import CHECKS, Fault, Verifier
from tests import factories
from tests.whole_ledger import (
    EVEN,
    LEAF_KEY,
    ODD,
    ROOT_KEY,
    SIGNING_KEY,
    SUBJECTS,
    WholeLedger,
    assignment,
    authority_events,
    certificate,
    halves,
    leaf,
    refused,
    root_certificate,
    signing_certificate,
    small_ledger,
    ulid,
)

RENEWED = 15  # sequence of the new intermediate in `small_ledger`


def faults(stored: Iterable[Stored], *, last_sequence: int | None = None) -> list[Fault]:
    verifier = Verifier("dc1")
    found = [fault for each in stored for fault in verifier.check(each)]
    return found + verifier.finish(last_sequence=last_sequence)


def named(stored: Iterable[Stored], **given: Any) -> list[tuple[int, str]]:
    return [(fault.sequence, fault.check) for fault in faults(stored, **given)]


def changed(ledger: WholeLedger, sequence: int, **data: Any) -> list[Stored]:
    """Return a copy whose first event at a sequence says something else."""
    events = msgspec.json.decode(ledger.stored[sequence - 1].data)
    events[0]["data"] = {**events[0]["data"], **data}
    return ledger.replaced(sequence, msgspec.json.encode(events))


def attribute(ledger: WholeLedger, sequence: int, **attributes: Any) -> list[Stored]:
    """Return a copy whose first envelope at a sequence says something else."""
    events = msgspec.json.decode(ledger.stored[sequence - 1].data)
    events[0] = {**events[0], **attributes}
    return ledger.replaced(sequence, msgspec.json.encode(events))


def event_at(ledger: WholeLedger, sequence: int) -> LeafIssued:
    data = msgspec.json.decode(ledger.stored[sequence - 1].data)[0]["data"]
    return msgspec.convert(data, LeafIssued)


def test_a_ledger_with_nothing_wrong_has_no_fault_and_everything_was_looked_at() -> None:
    ledger = small_ledger()
    verifier = Verifier("dc1")

    found = [fault for each in ledger.stored for fault in verifier.check(each)]
    found += verifier.finish(last_sequence=ledger.last)

    summary = verifier.summary()
    assert found == []
    assert (summary.first, summary.last, summary.entries) == (1, 23, 23)
    assert (summary.leaves, summary.faults) == (10, 0)
    assert set(summary.checked) == set(CHECKS)
    assert all(summary.checked.values())
    assert summary.checked["leaf_chain"] == 10


def test_an_empty_ledger_has_no_fault() -> None:
    assert faults([], last_sequence=0) == []
    assert Verifier("dc1").summary().last == 0


def test_gap() -> None:
    ledger = small_ledger()
    del ledger.stored[6 - 1]

    assert named(ledger.stored, last_sequence=23) == [(6, "gap")]


def test_gap_at_the_end() -> None:
    ledger = small_ledger()

    assert named(ledger.stored[:-1], last_sequence=23) == [(23, "gap")]


def test_gap_of_a_sequence_that_comes_again() -> None:
    ledger = small_ledger()
    ledger.stored.insert(8, ledger.stored[5])

    assert named(ledger.stored) == [(6, "gap")]


@pytest.mark.parametrize("data", [b"garbage", b"[]", b"{}", b"[1]"])
def test_malformed(data: bytes) -> None:
    assert named(small_ledger().replaced(8, data)) == [(8, "malformed")]


def test_malformed_data() -> None:
    assert named(changed(small_ledger(), 8, serial="XYZ")) == [(8, "malformed")]


@pytest.mark.parametrize("subject", ["ca.dc1.ledger.other", SUBJECTS.grant(EVEN), "ca.dc2.x"])
def test_subject(subject: str) -> None:
    ledger = small_ledger()
    ledger.stored[7] = replace(ledger.stored[7], subject=subject)

    assert named(ledger.stored) == [(8, "subject")]


def test_unknown_type() -> None:
    copy = attribute(small_ledger(), 8, type="caledger.leaf.issued.v9")

    assert named(copy) == [(8, "unknown_type")]


def test_event_id() -> None:
    ledger = small_ledger()
    (first,) = msgspec.json.decode(ledger.stored[6 - 1].data)

    assert named(attribute(ledger, 8, id=first["id"])) == [(8, "event_id")]


def test_event_id_of_an_entry_that_was_stored_twice() -> None:
    ledger = small_ledger()
    again = ledger.raw(ledger.stored[-1].subject, ledger.stored[-1].data)

    assert named(ledger.stored) == [(again, "event_id")]


def test_event_id_of_a_leaf_in_an_authority_entry() -> None:
    ledger = small_ledger()
    sequence = ledger.decide(
        ledger.stamp(LeadershipAcquired(node="n3", term=3, lease_revision=1), event_id=ulid(20)),
        term=3,
    )

    assert named(ledger.stored) == [(sequence, "event_id")]


def test_expected() -> None:
    ledger = small_ledger()
    stale = ledger.decide(
        LeadershipAcquired(node="n3", term=3, lease_revision=1), term=3, expected=14
    )

    assert named(ledger.stored) == [(stale, "expected")]


def test_atomic_where_the_end_of_an_append_is_missing() -> None:
    ledger = WholeLedger()
    ledger.begin()
    begun = ledger.assign(halves(), grants=False)

    assert named(ledger.stored) == [(begun, "atomic")]


def test_atomic_where_something_else_stands_inside_an_append() -> None:
    ledger = WholeLedger()
    ledger.begin()
    ledger.assign(halves(), grants=False)
    ledger.grant(EVEN, GrantGiven(assignment=halves()[0]))
    inside = ledger.acquire("n2")

    assert named(ledger.stored) == [(inside, "atomic")]


def test_atomic_where_an_entry_says_another_length_than_it_has() -> None:
    ledger = WholeLedger()
    ledger.begin()
    wrong = ledger.assign(halves(), messages=2)

    assert named(ledger.stored) == [
        (wrong, "atomic"),
        (wrong + 1, "grant_message"),
        (wrong + 2, "grant_message"),
    ]


def test_grant_message() -> None:
    ledger = small_ledger()
    forged = ledger.grant(ODD, GrantGiven(assignment=halves()[1]))

    assert named(ledger.stored) == [(forged, "grant_message")]


def test_grant_message_that_gives_more_than_was_decided() -> None:
    ledger = small_ledger()
    more = msgspec.to_builtins(assignment(EVEN, range(PARTITIONS)))

    assert named(changed(ledger, 4, assignment=more)) == [(4, "grant_message")]


@pytest.mark.parametrize("term", [1, 2])
def test_term_that_does_not_rise(term: int) -> None:
    ledger = small_ledger()
    low = ledger.decide(LeadershipAcquired(node="n1", term=term, lease_revision=1), term=term)

    assert named(ledger.stored) == [(low, "term")]


def test_term_that_is_not_the_leaders() -> None:
    ledger = small_ledger()
    ledger.acquire("n3")
    deposed = ledger.decide(authority_events(signing_key=7)[2], term=2)

    assert named(ledger.stored) == [(deposed, "term")]


def test_term_of_nobody() -> None:
    ledger = small_ledger()
    ledger.release("n2")
    alone = ledger.decide(authority_events(signing_key=7)[2])

    assert named(ledger.stored) == [(alone, "term")]


def test_term_that_is_released_by_somebody_else() -> None:
    ledger = small_ledger()
    released = ledger.release("n1")

    assert named(ledger.stored) == [(released, "term")]


def test_signer() -> None:
    assert named(changed(small_ledger(), 8, signer=ODD)) == [(8, "signer")]


def test_signer_of_a_refusal() -> None:
    ledger = small_ledger()
    sequence = ledger.leaves(EVEN, refused(ODD, grant=ledger.grants[EVEN]))

    assert named(ledger.stored) == [(sequence, "signer")]


def test_name_that_is_not_the_identitys() -> None:
    """`api` is in the signer's partitions as well: only the name gives it away."""
    assert named(changed(small_ledger(), 6, name="api")) == [(6, "name")]


@pytest.mark.parametrize("spelling", ["%77eb", "w%65b"])
def test_name_of_a_second_certificate_for_a_request_under_another_spelling(spelling: str) -> None:
    """A rogue signer's: to the check of request ids it is another identity."""
    ledger = small_ledger()
    identity = factories.service_uri("web").removesuffix("web") + spelling
    der = factories.leaf_certificate(
        issuer=signing_certificate(3),
        issuer_key=factories.ca_key(number=3),
        key=factories.ca_key(number=LEAF_KEY),
        uri=identity,
        serial=factories.SERIAL + 6000,
    )
    event = leaf("web", grant=ledger.grants[EVEN], signing_key=3, request_id="r-0")
    again = ledger.leaves(
        EVEN,
        replace(event, identity=identity, certificate=der, serial=f"{factories.SERIAL + 6000:x}"),
    )

    assert named(ledger.stored) == [(again, "name")]


@pytest.mark.parametrize("grant", [3, 5, 0])
def test_grant_that_was_never_the_signers(grant: int) -> None:
    assert named(changed(small_ledger(), 6, grant_sequence=grant)) == [(6, "grant")]


def test_grant_that_was_superseded() -> None:
    ledger = small_ledger()
    stale = ledger.leaves(EVEN, leaf("web", grant=4, serial=77))

    assert named(ledger.stored) == [(stale, "grant")]


def test_grant_that_was_withdrawn() -> None:
    ledger = small_ledger()
    stale = ledger.leaves(ODD, leaf("billing.eu", grant=18, serial=77, signing_key=3))

    assert named(ledger.stored) == [(stale, "grant")]


def test_grant_of_a_refusal() -> None:
    ledger = small_ledger()
    sequence = ledger.leaves(EVEN, refused(EVEN, grant=4))

    assert named(ledger.stored) == [(sequence, "grant")]


def test_partition() -> None:
    ledger = WholeLedger()
    ledger.begin()
    foreign = ledger.leaves(
        EVEN, leaf("billing.eu", grant=ledger.grants[EVEN], signer=EVEN, serial=77)
    )

    assert named(ledger.stored) == [(foreign, "partition")]


def test_issuer_key() -> None:
    """A leaf of the old signing key, under a grant for the new one."""
    ledger = small_ledger()
    old = ledger.leaves(
        EVEN, leaf("web", grant=ledger.grants[EVEN], signing_key=SIGNING_KEY, serial=77)
    )

    assert named(ledger.stored) == [(old, "issuer_key")]


@pytest.mark.parametrize(
    "said",
    [
        {"serial": "77"},
        {"key_id": "a" * 64},
        {"not_before": "2026-08-01T12:00:00Z"},
        {"not_after": "2026-08-09T12:00:00Z"},
        {"dns": ["localhost"]},
        {"ip": ["::1"]},
    ],
)
def test_leaf_fields(said: dict[str, str]) -> None:
    assert named(changed(small_ledger(), 6, **said)) == [(6, "leaf_fields")]


@pytest.mark.parametrize(
    ("dns", "ip", "faults"),
    [
        (("localhost", "web.example"), ("127.0.0.1", "::1"), []),
        (("localhost",), ("127.0.0.1", "::1"), ["leaf_fields"]),
        (("localhost", "web.example"), ("127.0.0.1",), ["leaf_fields"]),
        ((), (), ["leaf_fields"]),
    ],
)
def test_leaf_fields_are_also_the_names_beside_the_identity(
    dns: tuple[str, ...], ip: tuple[str, ...], faults: list[str]
) -> None:
    ledger = small_ledger()
    named_leaf = factories.leaf_certificate(
        issuer=signing_certificate(SIGNING_KEY),
        issuer_key=factories.ca_key(number=SIGNING_KEY),
        key=factories.ca_key(number=LEAF_KEY),
        serial=int(event_at(ledger, 6).serial, 16),
        dns=("localhost", "web.example"),
        ip=("127.0.0.1", "::1"),
    )
    copy = changed(
        ledger, 6, certificate=base64.b64encode(named_leaf).decode(), dns=list(dns), ip=list(ip)
    )

    assert [check for _, check in named(copy)] == faults


def test_leaf_fields_where_the_certificate_is_of_a_version_that_there_is_not() -> None:
    """cryptography raises something of its own; the auditor gets a fault all the same."""
    ledger = small_ledger()
    v3 = bytes.fromhex("a003020102")
    unreadable = event_at(ledger, 6).certificate.replace(v3, v3[:-1] + b"\x07")
    copy = changed(ledger, 6, certificate=base64.b64encode(unreadable).decode())

    assert named(copy) == [(6, "leaf_fields")]


def test_leaf_fields_where_the_certificate_is_anothers() -> None:
    """Whoever reads the index finds `web`; the certificate says `db`."""
    ledger = small_ledger()
    other = replace(
        event_at(ledger, 6), certificate=certificate("db", factories.SERIAL + 1005, SIGNING_KEY)
    )
    copy = changed(ledger, 6, certificate=base64.b64encode(other.certificate).decode())

    assert named(copy) == [(6, "leaf_fields")]


def test_leaf_fields_that_cannot_be_read() -> None:
    copy = changed(small_ledger(), 6, certificate=base64.b64encode(b"none").decode())

    assert named(copy) == [(6, "leaf_fields")]


def test_leaf_signature() -> None:
    ledger = small_ledger()
    der = bytearray(event_at(ledger, 6).certificate)
    der[-1] ^= 1
    copy = changed(ledger, 6, certificate=base64.b64encode(der).decode())

    assert named(copy) == [(6, "leaf_signature")]


def test_leaf_chain_where_the_issuer_is_below_another_root() -> None:
    """Its key is the one that the grant names, and its certificate is not below our root."""
    ledger = WholeLedger()
    ledger.acquire()
    *events, installed = authority_events()
    other = factories.intermediate(
        key=factories.ca_key(number=SIGNING_KEY),
        issuer=factories.root(key=factories.ca_key(number=9)),
        issuer_key=factories.ca_key(number=9),
    )
    ledger.decide(*events, replace(installed, certificate=other))
    ledger.assign(halves())
    sequence = ledger.issue("web")

    assert named(ledger.stored) == [(sequence, "leaf_chain")]


def test_leaf_chain_where_the_leaf_is_a_certificate_authority() -> None:
    ledger = small_ledger()
    before = event_at(ledger, 6)
    rogue = factories.intermediate(
        key=factories.ca_key(number=2),
        issuer=signing_certificate(SIGNING_KEY),
        issuer_key=factories.ca_key(number=SIGNING_KEY),
        serial=int(before.serial, 16),
        not_before=before.not_before,
        not_after=before.not_after,
    )
    copy = changed(ledger, 6, certificate=base64.b64encode(rogue).decode())

    assert {check for _, check in named(copy)} == {"leaf_fields", "leaf_chain"}
    assert {sequence for sequence, _ in named(copy)} == {6}


def test_f18_leaf_chain_where_the_leaf_outlives_its_issuer() -> None:
    ledger = WholeLedger()
    ledger.acquire()
    *events, installed = authority_events()
    brief = factories.intermediate(
        key=factories.ca_key(number=SIGNING_KEY),
        issuer=root_certificate(),
        issuer_key=factories.ca_key(number=ROOT_KEY),
        not_after=factories.NOW + timedelta(hours=1),
    )
    ledger.decide(*events, replace(installed, certificate=brief))
    ledger.assign(halves())
    sequence = ledger.issue("web")  # for three days

    assert named(ledger.stored) == [(sequence, "leaf_chain")]


def test_f12_serial() -> None:
    ledger = small_ledger()
    again = ledger.leaves(
        EVEN,
        leaf(
            "db",
            grant=ledger.grants[EVEN],
            serial=factories.SERIAL + 5000,
            signing_key=3,
        ),
    )

    assert named(ledger.stored) == [(again, "serial")]


def test_f11_request_id() -> None:
    ledger = small_ledger()
    again = ledger.issue("web", request_id="r-0", signing_key=3)

    assert named(ledger.stored) == [(again, "request_id")]


def test_the_verifier_goes_on_after_every_fault_and_counts_them() -> None:
    ledger = small_ledger()
    copy = ledger.replaced(6, b"garbage")
    copy[7] = replace(copy[7], subject="ca.dc1.ledger.other")
    ledger.stored = copy
    late = ledger.issue("web", request_id="r-after", grant=4, signing_key=3)
    verifier = Verifier("dc1")

    found = [fault for each in ledger.stored for fault in verifier.check(each)]

    assert [(f.sequence, f.check) for f in found] == [
        (6, "malformed"),
        (8, "subject"),
        (late, "grant"),
    ]
    assert verifier.summary().faults == 3


def test_what_follows_a_gap_in_authority_is_still_checked() -> None:
    ledger = small_ledger()
    del ledger.stored[RENEWED - 1]

    assert named(ledger.stored)[0] == (RENEWED, "gap")
    assert (16, "expected") in named(ledger.stored)


def test_every_check_has_a_test_that_is_named_after_it() -> None:
    tests = [name.removeprefix("test_") for name in globals() if name.startswith("test_")]

    assert [c for c in CHECKS if not any(re.match(rf"(f\d+_)?{c}", t) for t in tests)] == []


def test_f22_f27_no_private_key_is_anywhere_in_the_ledger() -> None:
    """The keys of root, intermediates and leaves, raw, as hex and as base64, wherever it begins."""
    stored = small_ledger().stored
    scalars = [_scalar(number) for number in (0, 1, 2, 3)]

    assert [s.sequence for s in stored for each in scalars if _holds(s.data, each)] == []


def test_f22_f27_the_scan_finds_a_key_however_it_is_written() -> None:
    secret = _scalar(0)
    pem = factories.private_pem(factories.ca_key(number=0))

    for data in (secret, secret.hex().encode(), base64.b64encode(b"x" + secret), pem):
        assert _holds(b"before" + data + b"after", secret)


def _scalar(number: int) -> bytes:
    key = factories.ca_key(number=number)
    der = key.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return der[7:39]  # RFC 5915, section 3, C.4: SEQUENCE, version, OCTET STRING of 32 octets


def _holds(data: bytes, secret: bytes) -> bool:
    forms = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for before in range(3):  # base64 of it depends on how many octets come before, modulo 3
        encoded = base64.b64encode(bytes(before) + secret)
        forms.append(encoded[4 if before else 0 : -4])
    plain = data.replace(b"\n", b"")
    return any(form in data or form in plain for form in forms)
