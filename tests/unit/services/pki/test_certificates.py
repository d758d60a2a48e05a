from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from services.pki import certificates
from services.pki.certificates import CertificateError
from tests import factories
from tests.factories import CA_KINDS, NOW, SERIAL, TRUST_DOMAIN

E = TypeVar("E", bound=x509.ExtensionType)


def load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def extension(der: bytes, kind: type[E]) -> x509.Extension[E]:
    return load(der).extensions.get_extension_for_class(kind)


@pytest.mark.parametrize("kind", CA_KINDS)
def test_a_root_is_consuls_root(kind: str) -> None:
    key = factories.ca_key(kind)
    der = factories.root(key=key, common_name="pri-1.consul.ca.11111111.consul")
    root = load(der)

    assert root.subject.rfc4514_string() == "CN=pri-1.consul.ca.11111111.consul"
    assert root.issuer == root.subject
    root.verify_directly_issued_by(root)
    constraints = extension(der, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=None)
    san = extension(der, x509.SubjectAlternativeName).value
    assert list(san) == [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}")]
    key_id = bytes.fromhex(certificates.key_id(key.public_key()))
    assert extension(der, x509.SubjectKeyIdentifier).value.digest == key_id
    assert extension(der, x509.AuthorityKeyIdentifier).value.key_identifier == key_id
    assert (root.not_valid_before_utc, root.not_valid_after_utc) == (
        NOW - timedelta(hours=1),
        NOW + timedelta(days=3650),
    )


@pytest.mark.parametrize("root_kind", CA_KINDS)
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_an_intermediate_signs_leaves_and_no_further_ca(root_kind: str, kind: str) -> None:
    made = factories.hierarchy(root_kind=root_kind, signing_kind=kind)
    root, intermediate = load(made.root), load(made.intermediate)

    intermediate.verify_directly_issued_by(root)
    assert intermediate.subject.rfc4514_string() != ""
    assert intermediate.subject != root.subject
    constraints = extension(made.intermediate, x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    usage = extension(made.intermediate, x509.KeyUsage)
    assert usage.critical
    assert (usage.value.key_cert_sign, usage.value.crl_sign) == (True, True)
    assert (usage.value.digital_signature, usage.value.key_encipherment) == (True, False)
    authority_key_id = extension(made.intermediate, x509.AuthorityKeyIdentifier).value
    assert authority_key_id.key_identifier == certificates.subject_key_id(made.root)
    san = extension(made.intermediate, x509.SubjectAlternativeName).value
    assert list(san) == [x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}")]


def test_an_intermediate_does_not_outlive_its_root() -> None:
    root = factories.root(not_after=NOW + timedelta(days=3))
    intermediate = load(factories.intermediate(issuer=root, not_after=NOW + timedelta(days=365)))

    assert intermediate.not_valid_after_utc == NOW + timedelta(days=3)


def test_an_intermediate_is_not_valid_before_its_root() -> None:
    root = factories.root(not_before=NOW)
    intermediate = load(factories.intermediate(issuer=root, not_before=NOW - timedelta(hours=1)))

    assert intermediate.not_valid_before_utc == NOW


@given(st.integers(1, 2**159 - 1))
@settings(deadline=None)
def test_any_serial_number_of_rfc_5280_is_carried(serial: int) -> None:
    root = factories.root(serial=serial)

    assert load(root).serial_number == serial


@pytest.mark.parametrize("kind", CA_KINDS)
def test_a_certificate_is_put_together_with_its_signers_algorithm(kind: str) -> None:
    key = factories.ca_key(kind)
    certificate = load(factories.root(key=key))

    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA256)
    expected = padding.PKCS1v15 if isinstance(key, rsa.RSAPrivateKey) else ec.ECDSA
    assert isinstance(certificate.signature_algorithm_parameters, expected)


def test_a_key_id_is_the_sha256_of_the_subject_public_key_info() -> None:
    key = factories.ca_key().public_key()

    assert certificates.key_id(key) == hashlib.sha256(certificates.spki_of(key)).hexdigest()


def test_a_root_id_is_the_colon_hex_sha1_of_the_certificate() -> None:
    root = factories.root()

    assert certificates.root_id(root).replace(":", "") == hashlib.sha1(root).hexdigest()
    assert re.fullmatch(r"([0-9a-f]{2}:){19}[0-9a-f]{2}", certificates.root_id(root))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("p256", ("ec", 256)), ("p384", ("ec", 384)), ("rsa3072", ("rsa", 3072))],
)
def test_a_key_is_shown_by_type_and_bits(kind: str, expected: tuple[str, int]) -> None:
    assert certificates.key_type_and_bits(factories.ca_key(kind).public_key()) == expected
    assert (
        certificates.key_type_and_bits(
            certificates.public_key_of(factories.root(key=factories.ca_key(kind)))
        )
        == expected
    )


@pytest.mark.parametrize(
    ("token", "name"),
    [
        ("ffffffffffffffff" + "0" * 16, "pri-3w5e1126.consul.ca.11111111.consul"),
        ("0" * 32, "pri-0.consul.ca.11111111.consul"),
        ("0000000000000024" + "f" * 16, "pri-10.consul.ca.11111111.consul"),
    ],
)
def test_a_ca_is_named_as_consul_names_it(token: str, name: str) -> None:
    assert certificates.common_name("pri", factories.CLUSTER_ID, token) == name


@given(st.integers(0, 2**128 - 1))
def test_every_token_makes_a_name_in_consuls_form(value: int) -> None:
    name = certificates.common_name("sec", factories.CLUSTER_ID.upper(), f"{value:032x}")

    assert re.fullmatch(r"sec-[a-z0-9]{1,8}\.consul\.ca\.11111111\.consul", name)


@pytest.mark.parametrize("junk", [b"", b"0", b"\x30\x00", b"junk"])
def test_what_is_no_certificate_is_refused(junk: bytes) -> None:
    with pytest.raises(CertificateError, match="not a certificate"):
        certificates.subject_key_id(junk)


def test_an_issuer_without_a_key_identifier_is_refused() -> None:
    key = factories.ca_key()
    name = x509.Name([])
    bare = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(SERIAL)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(CertificateError, match="no subject key identifier"):
        certificates.subject_key_id(bare.public_bytes(Encoding.DER))
