"""The trust bundle in Consul's words."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from functools import cache
from ssl import DER_cert_to_PEM_cert
from typing import Any

import msgspec
import pytest
from cryptography import x509
from msgspec.structs import replace

from events.authority import RootPublished
from projections.authority import AuthorityState
from projections.authority_fold import fold
from projections.bundle import bundle
from services.pki import certificates, pem
from tests import factories
from tests.factories import NOW
from tests.whole_ledger import (
    SIGNING_KEY,
    SUBJECTS,
    WholeLedger,
    authority_events,
    key_id,
    root_certificate,
    signing_certificate,
)


def state_of(ledger: WholeLedger) -> AuthorityState:
    state = AuthorityState(datacenter="dc1")
    for stored in ledger.stored:
        if stored.subject == SUBJECTS.authority:
            state = fold(state, stored)
    return state


def told(ledger: WholeLedger) -> Any:
    return msgspec.json.decode(msgspec.json.encode(bundle(state_of(ledger))))


@cache
def new_root() -> RootPublished:
    key = factories.ca_key(number=5)
    der = factories.root(key=key, serial=7)
    return RootPublished(
        root_id=pem.colon_hex(hashlib.sha1(der).hexdigest()),
        name="Consul CA Primary Cert",
        key_id=certificates.key_id(key.public_key()),
        key_type="ec",
        key_bits=256,
        external_trust_domain=factories.CLUSTER_ID,
        certificate=der,
        cross_signed=factories.intermediate(key=key),
        not_before=NOW,
        not_after=NOW + timedelta(days=3650, microseconds=7),
    )


def test_there_is_no_bundle_before_there_is_a_root() -> None:
    ledger = WholeLedger()
    assert bundle(state_of(ledger)) is None
    ledger.acquire()
    ledger.decide(*authority_events()[:3])
    assert bundle(state_of(ledger)) is None


def test_the_bundle_is_consuls_roots_and_its_place_in_the_ledger() -> None:
    """Specification, sections 1.1, 1.2 and 4.1: names, order, types and texts."""
    ledger = WholeLedger()
    ledger.begin()
    root_id = hashlib.sha1(root_certificate()).hexdigest()

    assert told(ledger) == {
        "ActiveRootID": ":".join(root_id[i : i + 2] for i in range(0, 40, 2)),
        "TrustDomain": "11111111-2222-3333-4444-555555555555.consul",
        "Roots": [
            {
                "ID": ":".join(root_id[i : i + 2] for i in range(0, 40, 2)),
                "Name": "Consul CA Primary Cert",
                "SerialNumber": 0x0123456789ABCDEF,
                "SerialNumberHex": "80:00:00:00:00:00:00:00:01:23:45:67:89:ab:cd:ef",
                "SigningKeyID": ":".join(key_id(1)[i : i + 2] for i in range(0, 64, 2)),
                "ExternalTrustDomain": "11111111-2222-3333-4444-555555555555",
                "NotBefore": "2026-08-01T11:00:00Z",
                "NotAfter": "2036-07-29T12:00:00Z",
                "RootCert": DER_cert_to_PEM_cert(root_certificate()),
                "IntermediateCerts": [DER_cert_to_PEM_cert(signing_certificate(SIGNING_KEY))],
                "Active": True,
                "PrivateKeyType": "ec",
                "PrivateKeyBits": 256,
                "CreateIndex": 2,
                "ModifyIndex": 2,
            }
        ],
        "LedgerSequence": 2,
    }


def test_pem_is_64_columns_wide_and_ends_its_last_line() -> None:
    ledger = WholeLedger()
    ledger.begin()

    lines = told(ledger)["Roots"][0]["RootCert"].split("\n")

    assert (lines[0], lines[-2:]) == (
        "-----BEGIN CERTIFICATE-----",
        ["-----END CERTIFICATE-----", ""],
    )
    assert all(len(line) == 64 for line in lines[1:-3])


def test_a_root_that_is_trusted_and_does_not_sign_has_its_own_key_and_no_intermediates() -> None:
    ledger = WholeLedger()
    ledger.begin()
    ledger.decide(replace(new_root(), cross_signed=None))

    old, new = told(ledger)["Roots"]

    assert (old["Active"], new["Active"]) == (True, False)
    assert new["IntermediateCerts"] is None
    assert new["SigningKeyID"] == pem.colon_hex(new_root().key_id)
    assert (new["SerialNumber"], new["SerialNumberHex"]) == (7, "07")
    assert new["NotAfter"] == "2036-07-29T12:00:00Z"
    assert told(ledger)["LedgerSequence"] == ledger.last


def test_the_cross_signed_certificate_is_first_and_the_one_that_signs_is_last() -> None:
    ledger = WholeLedger()
    ledger.begin()
    published, *_, installed = new_root(), *authority_events(signing_key=3)
    ledger.decide(published)
    ledger.decide(
        replace(authority_events()[4], root_id=published.root_id),
        replace(installed, root_id=published.root_id),
    )

    old, new = told(ledger)["Roots"]

    assert (old["Active"], new["Active"]) == (False, True)
    assert published.cross_signed is not None
    assert new["IntermediateCerts"] == [
        DER_cert_to_PEM_cert(published.cross_signed),
        DER_cert_to_PEM_cert(signing_certificate(3)),
    ]
    assert new["SigningKeyID"] == pem.colon_hex(key_id(3))
    assert old["SigningKeyID"] == pem.colon_hex(key_id(1))  # Consul's row keeps it


def test_a_root_below_an_external_anchor_brings_its_chain() -> None:
    ledger = WholeLedger()
    ledger.acquire()
    configured, *_ = authority_events()
    anchor = factories.root(key=factories.ca_key(number=8))
    ledger.decide(configured, replace(new_root(), chain=(anchor,)))

    (root,) = told(ledger)["Roots"]

    bundled = x509.load_pem_x509_certificates(root["RootCert"].encode())
    assert bundled == [
        x509.load_der_x509_certificate(new_root().certificate),
        x509.load_der_x509_certificate(anchor),
    ]


def test_a_certificate_that_is_none_is_told() -> None:
    ledger = WholeLedger()
    ledger.acquire()
    configured, *_ = authority_events()
    ledger.decide(configured, replace(new_root(), certificate=b"none"))

    with pytest.raises(ValueError, match="asn1"):
        bundle(state_of(ledger))
