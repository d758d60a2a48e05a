"""Consul's acceptance scenarios of the built-in provider (provider_consul_test.go)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from projections.authority import AuthorityState, Issuer, Root
from projections.bundle import bundle
from services.pki import certificates, pem
from tests import factories, verifiers
from tests.factories import CA_KINDS, SERIAL, Hierarchy
from tests.verifiers import Chain, pem_chain
from tests.virtual import Datacenter, run

pytestmark = pytest.mark.xdist_group("independent_verifiers")  # RSA keys are made once

MINUTES = timedelta(minutes=10)


def load(der: bytes) -> x509.Certificate:
    return x509.load_der_x509_certificate(der)


def uris(certificate: x509.Certificate) -> list[str]:
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return san.get_values_for_type(x509.UniformResourceIdentifier)


def subject_key(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def authority_key(certificate: x509.Certificate) -> bytes | None:
    extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    return extension.value.key_identifier


def active(state: AuthorityState) -> tuple[Root, Issuer]:
    assert state.active_root is not None
    assert state.issuer is not None
    return state.active_root, state.issuer


# --- what an authority begins with


async def begun(dc: Datacenter, folder: Path, **config: object) -> AuthorityState:
    """Let a first signer come to a datacenter whose first configuration is this file's."""
    dc.first_configuration = folder / "ca.json"
    dc.first_configuration.write_text(json.dumps({"Config": config}))
    dc.first_configuration.chmod(0o600)
    return await dc.signers(run(1))


async def test_41_a_new_authority_is_consuls(tmp_path: Path) -> None:
    """41. Bootstrap: root == signing cert; URI; default root TTL +-10 min; raw key ids.

    The root itself signs only where that is asked for; our default is an intermediate below it.
    """
    async with Datacenter.open(tmp_path) as dc:
        root, issuer = active(await begun(dc, tmp_path, LeafSigner="root"))
        shown = await dc.sign()
        told = bundle(dc.state)

    assert told is not None
    certificate = load(root.published.certificate)
    assert issuer.certificate == root.published.certificate
    assert uris(certificate) == [f"spiffe://{told.trust_domain}"]
    life = timedelta(hours=87_600)
    assert abs(certificate.not_valid_after_utc - (dc.clock.now() + life)) <= MINUTES
    key_id = bytes.fromhex(certificates.key_id(certificates.public_key_of(issuer.certificate)))
    assert len(key_id) == 32
    assert subject_key(certificate) == authority_key(certificate) == key_id
    assert authority_key(load(shown.leaf.certificate)) == key_id
    assert shown.chain == ()
    assert shown.verifies((root.published.certificate,), dc.clock.now())
    assert told.roots[0].signing_key_id == pem.colon_hex(key_id.hex())


@pytest.mark.parametrize("leaf_signer", ["intermediate", "root"])
async def test_42_a_given_key_and_certificate_are_kept_as_they_are(
    tmp_path: Path, leaf_signer: str
) -> None:
    """42. Bootstrap_WithCert: user key/cert kept as is."""
    key = factories.ca_key("p384", 3)
    given = factories.root(key=key, common_name="an operator's own root")
    async with Datacenter.open(tmp_path) as dc:
        root, _ = active(
            await begun(
                dc,
                tmp_path,
                PrivateKey=factories.private_pem(key).decode(),
                RootCert=pem.encode(given),
                LeafSigner=leaf_signer,
            )
        )
        shown = await dc.sign()
        told = bundle(dc.state)

    assert root.published.certificate == given
    assert root.published.key_id == certificates.key_id(key.public_key())
    assert told is not None
    assert [pem_chain(each.root_cert) for each in told.roots] == [(given,)]
    assert len(shown.chain) == (1 if leaf_signer == "intermediate" else 0)
    assert shown.verifies((given,), dc.clock.now())


# --- the bridge from an old root to a new one


def bridged(old_kind: str, new_kind: str) -> tuple[bytes, Hierarchy, bytes]:
    """Return an old root, what is below a new one, and the new root signed by the old one."""
    now = datetime.now(UTC)
    old_key = factories.ca_key(old_kind, 2)
    old = factories.root(
        key=old_key,
        common_name="the old root",
        not_before=now - timedelta(days=30),
        not_after=now + timedelta(days=300),
    )
    new = factories.hierarchy(root_kind=new_kind, signing_kind="p256", now=now)
    tbs = certificates.cross_signed_tbs(
        root=new.root,
        issuer=old,
        serial=SERIAL + 7,
        not_before=now - timedelta(hours=1),
        not_after=now + timedelta(days=3650),
    )
    return old, new, factories.signed(tbs, old_key)


@pytest.mark.parametrize("old_kind", CA_KINDS)
@pytest.mark.parametrize("new_kind", CA_KINDS)
def test_44_a_cross_signed_root_leads_from_the_old_root_to_every_leaf_below_the_new_one(
    old_kind: str, new_kind: str
) -> None:
    """44. CrossSignCA over all CA/CSR key-type pairs; Consul 10070: the algorithm is the key's.

    AKI = old SKI, SKI kept, subject kept, issuer = old; the leaf verifies with both roots.
    """
    old, new, bridge = bridged(old_kind, new_kind)
    before, after, crossed = load(old), load(new.root), load(bridge)

    assert authority_key(crossed) == subject_key(before) != subject_key(after)
    assert subject_key(crossed) == subject_key(after)
    assert (crossed.subject, crossed.issuer) == (after.subject, before.subject)
    assert crossed.public_key() == after.public_key()
    assert uris(crossed) == uris(after)
    assert crossed.serial_number != after.serial_number
    crossed.verify_directly_issued_by(before)
    assert crossed.not_valid_after_utc == before.not_valid_after_utc  # the shorter of both lives
    leaf = new.leaf(now=datetime.now(UTC))
    for verifier in (verifiers.python_cryptography, verifiers.openssl):
        for roots in ((old,), (new.root,), (old, new.root)):
            shown = Chain(leaf=leaf, intermediates=(new.intermediate, bridge), roots=roots)
            assert (verdict := verifier(shown)), (verifier, verdict)
        without = Chain(leaf=leaf, intermediates=(new.intermediate,), roots=(old,))
        assert not verifier(without)


@pytest.mark.parametrize(("old_kind", "new_kind"), [("p256", "rsa2048"), ("rsa2048", "p384")])
def test_44_every_verifier_follows_the_bridge(old_kind: str, new_kind: str) -> None:
    """44. The leaf verifies with both roots."""
    old, new, bridge = bridged(old_kind, new_kind)
    leaf = new.leaf(now=datetime.now(UTC))

    for root in (old, new.root):
        verifiers.assert_all_accept(
            Chain(leaf=leaf, intermediates=(new.intermediate, bridge), roots=(root,))
        )
