"""A root that the operator brings: what no verifier would forgive is refused before it is used."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from services.keys.interface import PrivateKey
from services.pki import given
from services.pki.certificates import CertificateError
from tests.external_ca import given_with_path_lengths
from tests.factories import NOW
from tests.verifiers import Chain, openssl

LEAVES_END = NOW + timedelta(hours=72)


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def certificate(
    subject_key: PrivateKey,
    *,
    by: tuple[PrivateKey, str] | None = None,
    name: str = "root",
    path_length: int | None = None,
    ca: bool = True,
    usage: bool | None = True,
    ski: bool = True,
    days: tuple[int, int] = (-1, 3650),
    digest: hashes.SHA224 | hashes.SHA256 | None = None,
    serial: bytes = b"",
) -> bytes:
    """Make a certificate, self-signed unless somebody else signs it."""
    signer, issuer = by or (subject_key, name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(subject_key.public_key())
        .serial_number(int.from_bytes(serial) or x509.random_serial_number())
        .not_valid_before(NOW + timedelta(days=days[0]))
        .not_valid_after(NOW + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), True)
    )
    if usage is not None:
        builder = builder.add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=usage,
                crl_sign=usage,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        )
    by_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(by_key, False)
    if ski:
        identifier = x509.SubjectKeyIdentifier.from_public_key(subject_key.public_key())
        builder = builder.add_extension(identifier, False)
    return builder.sign(signer, digest or hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])


def check(*chain: bytes, key: PrivateKey, cas_below: int = 1) -> None:
    given.check_root(chain, key, cas_below=cas_below, now=NOW, until=LEAVES_END)


@pytest.mark.parametrize("path_length", [None, 1, 5])
def test_a_ca_with_its_key_is_taken(path_length: int | None) -> None:
    mine = key()

    check(certificate(mine, path_length=path_length), key=mine)


def test_a_chain_below_an_external_root_is_taken() -> None:
    anchor, mine = key(), rsa.generate_private_key(public_exponent=65537, key_size=2048)
    below = certificate(mine, by=(anchor, "anchor"), path_length=1)

    check(below, certificate(anchor, name="anchor"), key=mine)


def test_a_ca_that_allows_no_intermediate_can_only_sign_leaves_itself() -> None:
    """OpenSSL and GnuTLS refuse a chain that is longer than the path length (RFC 5280, 4.2.1.9)."""
    mine = key()
    root = certificate(mine, path_length=0)

    check(root, key=mine, cas_below=0)
    with pytest.raises(CertificateError, match="set LeafSigner to root"):
        check(root, key=mine)


@pytest.mark.parametrize("cas_below", [0, 1])
@pytest.mark.parametrize(
    "lengths",  # the anchor's first
    [
        (0,),
        (1,),
        (1, None),
        (2, None),
        (0, None),
        (None, 0),
        (None, 1, None),
        (None, 2, None),
        (2, None, None),
        (3, None, None),
        (1, None, None),
        (None, None, None),
    ],
)
def test_a_chain_is_taken_if_openssl_takes_leaves_below_it(
    lengths: tuple[int | None, ...], cas_below: int
) -> None:
    """Every path length above counts, and not the CA's own alone (RFC 5280, 4.2.1.9)."""
    given_here = given_with_path_lengths(*lengths)
    chain, mine = given_here.chain, given_here.key
    shown, issuer = chain[:-1], (mine, f"external 60.{len(lengths) - 1}")
    if cas_below:
        below = key()
        shown = (certificate(below, by=issuer, name="intermediate", path_length=0), *shown)
        issuer = (below, "intermediate")
    leaf = certificate(key(), by=issuer, name="leaf", ca=False, usage=False)

    verdict = openssl(Chain(leaf=leaf, intermediates=shown, roots=chain[-1:]), at=NOW)

    with nullcontext() if verdict else pytest.raises(CertificateError, match="path length"):
        check(*chain, key=mine, cas_below=cas_below)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda mine: certificate(mine, ca=False), "not a CA"),
        (lambda mine: certificate(mine, usage=False), "keyCertSign"),
        (lambda mine: certificate(mine, ski=False), "no subject key identifier"),
        (lambda mine: certificate(mine, name=""), "no subject"),
        (lambda mine: certificate(mine, days=(-2, -1)), "root expired: certificate expired"),
        (lambda mine: certificate(mine, days=(1, 9)), "not valid before"),
        (lambda mine: certificate(mine, days=(-1, 2)), "before its leaves do"),
        (lambda _: certificate(key()), "is not the root certificate's"),
        (lambda mine: certificate(mine, by=(key(), "x")), "does not end with a self-signed"),
    ],
)
def test_what_could_not_sign_is_refused(made: Callable[[PrivateKey], bytes], text: str) -> None:
    mine = key()

    with pytest.raises(CertificateError, match=text):
        check(made(mine), key=mine)


def test_a_root_without_key_usage_may_do_everything() -> None:
    """RFC 5280, 4.2.1.3."""
    mine = key()

    check(certificate(mine, usage=None), key=mine)


def test_a_chain_must_be_in_order_strong_and_valid_for_long_enough() -> None:
    anchor, mine = key(), key()
    top = certificate(anchor, name="anchor")
    below = certificate(mine, by=(anchor, "anchor"))

    with pytest.raises(CertificateError, match="is not signed by the next one"):
        check(below, certificate(key(), name="anchor"), key=mine)
    weak = certificate(mine, by=(anchor, "anchor"), digest=hashes.SHA224())
    with pytest.raises(CertificateError, match="weak hash"):
        check(weak, top, key=mine)
    ends_soon = certificate(anchor, name="anchor", days=(-1, 2))
    with pytest.raises(CertificateError, match="before its leaves do"):
        check(below, ends_soon, key=mine)


def test_a_chain_in_the_wrong_order_is_told_which_comes_first() -> None:
    anchor, mine = key(), key()
    top = certificate(anchor, name="anchor")
    below = certificate(mine, by=(anchor, "anchor"))

    with pytest.raises(CertificateError, match="the root's own is the first"):
        check(top, below, key=mine)


def pem(key: PrivateKey | ed25519.Ed25519PrivateKey, password: bytes | None = None) -> str:
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password is not None:
        encryption = serialization.BestAvailableEncryption(password)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode()


LOCKED = (
    key()
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"secret"),
    )
    .decode()
)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
@pytest.mark.parametrize(
    "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
)
def test_keys_of_elliptic_curves_are_read_in_both_forms(
    curve: ec.EllipticCurve, form: serialization.PrivateFormat
) -> None:
    mine = ec.generate_private_key(curve)
    text = mine.private_bytes(
        serialization.Encoding.PEM, form, serialization.NoEncryption()
    ).decode()

    assert given.read_key(text).private_numbers() == mine.private_numbers()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no PEM-encoded data found"),
        ("-----BEGIN CERTIFICATE-----", "unknown PEM block type for signing key: CERTIFICATE"),
        (pem(key(), b"secret"), "signing key: ENCRYPTED PRIVATE KEY; decrypt it first"),
        (LOCKED, "cannot be read: it is encrypted: decrypt it first"),
        ("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----", "cannot be read"),
        (pem(ec.generate_private_key(ec.SECP521R1())), "no CA key may be of this kind"),
        (pem(ed25519.Ed25519PrivateKey.generate()), "no CA key may be of this kind"),
        (pem(rsa.generate_private_key(public_exponent=3, key_size=2048)), "exponent 65537"),
    ],
)
def test_what_is_no_key_of_a_ca_is_refused(text: str, message: str) -> None:
    with pytest.raises(CertificateError, match=message):
        given.read_key(text)


def test_23_a_chain_is_read_with_consuls_texts() -> None:
    """23. ParseCARoot: bundle of 2 and 3 certs keeps the whole bundle; no PEM -> error."""
    one = certificate(key())
    text = x509.load_der_x509_certificate(one).public_bytes(serialization.Encoding.PEM).decode()

    assert given.read_chain(text * 3) == (one, one, one)
    for wrong, message in (
        ("x", "no PEM-encoded data found"),
        (pem(key()), "first PEM-block should be CERTIFICATE type"),
        (text * 9, "at most 8"),
        (text[:60] + "\n-----END CERTIFICATE-----\n", "not a certificate"),
    ):
        with pytest.raises(CertificateError, match=message):
            given.read_chain(wrong)


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_a_serial_number_that_is_not_positive_is_refused() -> None:
    """RFC 5280, 4.1.2.2; nobody could write it as Consul and our lists do."""
    mine = key()
    serial = bytes(range(1, 21))
    wrong = certificate(mine, serial=serial).replace(serial, b"\x80" + serial[1:], 1)

    with pytest.raises(CertificateError, match="serial number"):
        check(wrong, key=mine)
