"""What the certificates are worth to others: every verifier takes ours, and refuses false ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from services.pki import certificates
from tests import factories, verifiers
from tests.factories import CA_KINDS, LEAF_KINDS, WEB, Hierarchy
from tests.verifiers import Chain, Use, Verdict

pytestmark = pytest.mark.xdist_group("independent_verifiers")  # RSA keys are made once

JUDGES = [(name, use) for name, (_, uses) in verifiers.VERIFIERS.items() for use in uses]
LEAF = factories.ca_key("p256", 2)


def now() -> datetime:
    return datetime.now(UTC)


def judge(name: str, use: Use, chain: Chain) -> Verdict:
    return verifiers.VERIFIERS[name][0](chain, use)


def chain(made: Hierarchy, leaf: bytes) -> Chain:
    return Chain(leaf=leaf, intermediates=(made.intermediate,), roots=(made.root,))


# --- what all of them accept


@pytest.mark.parametrize("ca_kind", CA_KINDS)
def test_every_verifier_accepts_every_leaf_key_below_every_ca_key(ca_kind: str) -> None:
    made = factories.hierarchy(root_kind=ca_kind, signing_kind=ca_kind, now=now())
    for leaf_kind in LEAF_KINDS:
        leaf = made.leaf(key=factories.ca_key(leaf_kind, 2), now=now())
        verifiers.assert_all_accept(chain(made, leaf))


@pytest.mark.parametrize(("root_kind", "signing_kind"), [("p384", "rsa2048"), ("rsa2048", "p256")])
def test_every_verifier_accepts_a_chain_of_mixed_keys(root_kind: str, signing_kind: str) -> None:
    made = factories.hierarchy(root_kind=root_kind, signing_kind=signing_kind, now=now())

    verifiers.assert_all_accept(chain(made, made.leaf(now=now())))


def test_every_verifier_accepts_a_leaf_that_the_root_itself_signed() -> None:
    """Consul's own relation (LeafSigner: root)."""
    made = factories.hierarchy(now=now())
    leaf = factories.leaf_certificate(issuer=made.root, issuer_key=factories.ca_key(), now=now())

    verifiers.assert_all_accept(Chain(leaf=leaf, roots=(made.root,)))


def test_every_verifier_accepts_a_leaf_that_is_asked_for_just_after_a_rotation() -> None:
    """Its issuer is a second old, and the verifier's clock may be behind."""
    made = factories.hierarchy(now=now() - timedelta(seconds=1))

    verifiers.assert_all_accept(chain(made, made.leaf(now=now())))


@pytest.mark.parametrize("name", ["web.v1", "a b", "a/b", "naïve", "100%", "x" * 128])
def test_every_verifier_accepts_any_name_and_go_reads_it_as_it_was_written(name: str) -> None:
    made = factories.hierarchy(now=now())
    uri = factories.service_uri(name)
    shown = chain(made, made.leaf(uri=uri, now=now()))

    verifiers.assert_all_accept(shown)
    assert verifiers.go(shown).text == uri


def test_every_verifier_accepts_a_root_that_lives_beyond_2049() -> None:
    root = factories.root(
        not_before=now() - timedelta(hours=1), not_after=datetime(2060, 1, 1, tzinfo=UTC)
    )
    leaf = factories.leaf_certificate(
        issuer=root, issuer_key=factories.ca_key(), now=now(), ttl_seconds=30 * 365 * 86400
    )

    verifiers.assert_all_accept(Chain(leaf=leaf, roots=(root,)))


# --- what each of them refuses


def forged(
    made: Hierarchy,
    *extensions: tuple[x509.ExtensionType, bool],
    purpose: x509.ObjectIdentifier = x509.OID_CLIENT_AUTH,
) -> bytes:
    """Return a leaf under the intermediate's good signature that is not made as ours are."""
    parent = x509.load_der_x509_certificate(made.intermediate)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(parent.subject)
        .public_key(LEAF.public_key())
        .serial_number(factories.SERIAL)
        .not_valid_before(now() - timedelta(minutes=1))
        .not_valid_after(now() + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(certificates.subject_key_id(made.intermediate), None, None),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(WEB)]), critical=True
        )
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    certificate = builder.sign(factories.ca_key(*made.signing_key), hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.DER)


def expired(made: Hierarchy) -> Chain:
    return chain(made, made.leaf(now=now() - timedelta(hours=1), ttl_seconds=60))


def not_yet_valid(made: Hierarchy) -> Chain:
    return chain(made, made.leaf(now=now() + timedelta(hours=1)))


def renamed_after_signing(made: Hierarchy) -> Chain:
    return chain(made, made.leaf(now=now()).replace(b"/svc/web", b"/svc/adm"))


def of_another_root(made: Hierarchy) -> Chain:
    impostor = factories.root(
        key=factories.ca_key(number=8), not_before=now(), not_after=now() + timedelta(days=1)
    )
    return Chain(leaf=made.leaf(now=now()), intermediates=(made.intermediate,), roots=(impostor,))


def without_the_intermediate(made: Hierarchy) -> Chain:
    return Chain(leaf=made.leaf(now=now()), roots=(made.root,))


def signed_by_a_leaf(made: Hierarchy) -> Chain:
    leaf = made.leaf(key=LEAF, now=now())
    below = factories.leaf_certificate(
        issuer=leaf, issuer_key=LEAF, key=factories.ca_key("p256", 3), now=now()
    )
    return Chain(leaf=below, intermediates=(leaf, made.intermediate), roots=(made.root,))


def below_an_intermediate_too_many(made: Hierarchy) -> Chain:
    further_key = factories.ca_key("p256", 4)
    further = factories.intermediate(
        key=further_key,
        issuer=made.intermediate,
        issuer_key=factories.ca_key(*made.signing_key),
        common_name="further.consul",
        not_before=now() - timedelta(hours=1),
        not_after=now() + timedelta(days=1),
    )
    leaf = factories.leaf_certificate(issuer=further, issuer_key=further_key, now=now())
    return Chain(leaf=leaf, intermediates=(further, made.intermediate), roots=(made.root,))


def for_another_purpose(made: Hierarchy) -> Chain:
    return chain(made, forged(made, purpose=x509.OID_CODE_SIGNING))


def with_a_critical_extension_that_nobody_knows(made: Hierarchy) -> Chain:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    return chain(made, forged(made, (unknown, True)))


FALSE_CHAINS = [
    expired,
    not_yet_valid,
    renamed_after_signing,
    of_another_root,
    without_the_intermediate,
    signed_by_a_leaf,
    below_an_intermediate_too_many,
    for_another_purpose,
    with_a_critical_extension_that_nobody_knows,
]


@pytest.mark.parametrize(("name", "use"), JUDGES)
@pytest.mark.parametrize("make", FALSE_CHAINS, ids=lambda make: make.__name__)
def test_every_verifier_refuses_a_false_chain(
    make: Callable[[Hierarchy], Chain], name: str, use: Use
) -> None:
    made = factories.hierarchy(now=now())

    assert not judge(name, use, make(made))


def test_the_forger_of_the_negative_tests_makes_chains_that_are_good_but_for_the_fault() -> None:
    made = factories.hierarchy(now=now())
    good = chain(made, forged(made))

    for name, (verifier, _) in verifiers.VERIFIERS.items():
        verdict = verifier(good, Use.CLIENT)
        assert verdict, f"{name}: {verdict.text}"


# --- how they are made: pkilint


@pytest.mark.parametrize("ca_kind", CA_KINDS)
def test_pkilint_finds_no_fault_in_any_certificate(ca_kind: str) -> None:
    made = factories.hierarchy(root_kind=ca_kind, signing_kind=ca_kind, now=now())
    leaves = [made.leaf(key=factories.ca_key(kind, 2), now=now()) for kind in LEAF_KINDS]

    found = {der: verifiers.pkilint(der) for der in (made.root, made.intermediate, *leaves)}

    assert [findings for findings in found.values() if findings] == []


def test_pkilint_finds_the_faults_that_it_is_here_for() -> None:
    made = factories.hierarchy(now=now())
    certifies = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )

    assert verifiers.pkilint(forged(made, (certifies, True))) != []
