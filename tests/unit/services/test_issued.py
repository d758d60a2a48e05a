"""The reply: Consul's fields, made of nothing but what the ledger holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography import x509
from msgspec.structs import replace

from events.leaves import IdentityKind, LeafIssued
from projections.authority import Issuer
from services.issued import IssuedCert, issued_cert
from tests.factories import WEB, hierarchy

CHAIN = hierarchy()
ISSUER = Issuer(
    key_id="b" * 64, root_id="r", certificate=CHAIN.intermediate, chain=(CHAIN.intermediate,)
)
LEAF = LeafIssued(
    request_id="r1",
    identity=WEB,
    kind="service",
    name="web",
    serial="e0f",
    key_id="a" * 64,
    issuer_key_id="b" * 64,
    not_before=datetime(2026, 8, 1, 11, 59, tzinfo=UTC),
    not_after=datetime(2026, 8, 4, 11, 59, tzinfo=UTC),
    certificate=CHAIN.leaf(),
    csr_sha256="c" * 64,
    signer="01K20000000000000000000EVN",
    grant_sequence=7,
    requester=None,
)
EVENT_ID = "01K10000000000000000000001"


def test_the_reply_has_consuls_fields_and_the_place_in_the_ledger() -> None:
    told = json.loads(issued_cert(LEAF, sequence=42, event_id=EVENT_ID, issuer=ISSUER))

    pem = told.pop("CertPEM")
    assert told == {
        "SerialNumber": "0e:0f",
        "Service": "web",
        "ServiceURI": WEB,
        "ValidAfter": "2026-08-01T11:59:00Z",
        "ValidBefore": "2026-08-04T11:59:00Z",
        "CreateIndex": 42,
        "ModifyIndex": 42,
        "LedgerSequence": 42,
        "EventID": EVENT_ID,
    }
    leaf, intermediate = x509.load_pem_x509_certificates(pem.encode())
    assert leaf == x509.load_der_x509_certificate(LEAF.certificate)
    assert intermediate == x509.load_der_x509_certificate(CHAIN.intermediate)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("agent", "n1", {"Agent": "n1", "AgentURI": WEB}),
        ("gateway", "", {"Kind": "mesh-gateway", "KindURI": WEB}),
        ("server", "", {"ServerURI": WEB}),
    ],
)
def test_11_the_reply_says_whom_it_is_for_as_consul_does(
    kind: IdentityKind, name: str, told: dict[str, str]
) -> None:
    """11. Sign_SpiffeIDServer: ServerURI is returned (and of the other kinds theirs)."""
    leaf = replace(LEAF, kind=kind, name=name)

    reply = json.loads(issued_cert(leaf, sequence=42, event_id=EVENT_ID, issuer=ISSUER))

    names = {"Service", "ServiceURI", "Agent", "AgentURI", "Kind", "KindURI", "ServerURI"}
    assert {field: reply[field] for field in names & reply.keys()} == told


def test_a_leaf_read_back_from_the_ledger_gives_the_same_bytes() -> None:
    read_back = msgspec.json.decode(msgspec.json.encode(LEAF), type=LeafIssued)

    first = issued_cert(LEAF, sequence=42, event_id=EVENT_ID, issuer=ISSUER)

    assert issued_cert(read_back, sequence=42, event_id=EVENT_ID, issuer=ISSUER) == first


def test_a_cross_signed_root_is_sent_after_the_intermediate() -> None:
    crossed = Issuer(
        key_id="b" * 64,
        root_id="r",
        certificate=CHAIN.intermediate,
        chain=(CHAIN.intermediate, CHAIN.root),
    )

    told = msgspec.json.decode(
        issued_cert(LEAF, sequence=42, event_id=EVENT_ID, issuer=crossed), type=IssuedCert
    )

    chain = x509.load_pem_x509_certificates(told.cert_pem.encode())
    assert chain[2] == x509.load_der_x509_certificate(CHAIN.root)
    assert told.cert_pem.endswith("-----END CERTIFICATE-----\n")
