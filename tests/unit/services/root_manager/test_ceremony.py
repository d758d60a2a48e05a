"""What a new authority is made of."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from events.authority import CAConfig
from services.config import ConfigError
from services.pki import certificates
from services.root_manager.commands import Initialise
from tests.factories import NOW
from tests.unit.services.root_manager.keys import KeysInMemory, intermediate_of, signing_key_of
from tests.unit.services.root_manager.keys import made as made_of

HOUR = timedelta(hours=1)


async def make(config: CAConfig, trust_domain: str | None = None) -> Initialise:
    return await made_of(config, trust_domain=trust_domain, now=NOW.replace(microsecond=123))


@pytest.mark.parametrize(
    ("key_type", "bits"), [("ec", 256), ("ec", 384), ("rsa", 2048), ("rsa", 3072)]
)
async def test_the_intermediate_is_signed_by_the_root_for_every_key_type(
    key_type: str, bits: int
) -> None:
    made = await make(CAConfig(private_key_type=key_type, private_key_bits=bits))  # type: ignore[arg-type]  # one of the two, from the table above
    root = certificates.load(made.root.certificate)
    intermediate = certificates.load(intermediate_of(made).certificate)

    root.verify_directly_issued_by(root)
    intermediate.verify_directly_issued_by(root)
    assert (made.root.key_type, made.root.key_bits) == (key_type, bits)
    assert made.root.key_id == made.root_key.key_id == _key_id(made.root.certificate)
    assert intermediate_of(made).signing_key_id == signing_key_of(made).key_id
    assert signing_key_of(made).key_id == _key_id(intermediate_of(made).certificate)


async def test_root_and_intermediate_live_as_long_as_consuls_and_begin_an_hour_before() -> None:
    made = await make(CAConfig())

    assert made.root.not_before == intermediate_of(made).not_before == NOW - HOUR
    assert made.root.not_after == NOW + 87600 * HOUR
    assert intermediate_of(made).not_after == NOW + 8760 * HOUR


async def test_an_intermediate_never_outlives_its_root() -> None:
    made = await make(CAConfig(root_cert_ttl_seconds=3600, intermediate_cert_ttl_seconds=7200))

    assert intermediate_of(made).not_after == made.root.not_after == NOW + HOUR


async def test_the_events_say_what_the_certificates_say() -> None:
    made = await make(CAConfig())

    for told in (made.root, intermediate_of(made)):
        certificate = certificates.load(told.certificate)
        assert certificate.not_valid_before_utc == told.not_before
        assert certificate.not_valid_after_utc == told.not_after
    assert made.root.root_id == certificates.root_id(made.root.certificate)
    assert intermediate_of(made).root_id == made.root.root_id
    assert made.root.name == "Consul CA Primary Cert"
    assert made.root.external_trust_domain == made.configured.cluster_id


async def test_the_trust_domain_follows_from_the_cluster_id_unless_it_is_named() -> None:
    assert_named = (await make(CAConfig(), "Example.ORG")).configured
    by_itself = (await make(CAConfig())).configured

    assert assert_named.trust_domain == "example.org"
    assert by_itself.trust_domain == f"{by_itself.cluster_id}.consul"
    assert by_itself.cluster_id != assert_named.cluster_id


async def test_root_and_intermediate_have_names_and_serials_of_their_own() -> None:
    made = await make(CAConfig())
    root, intermediate = (
        certificates.load(each.certificate) for each in (made.root, intermediate_of(made))
    )

    assert _common_name(root) != _common_name(intermediate)
    suffix = f".consul.ca.{made.configured.cluster_id[:8]}.consul"
    assert all(_common_name(each).endswith(suffix) for each in (root, intermediate))
    assert root.serial_number != intermediate.serial_number


def _key_id(certificate: bytes) -> str:
    return certificates.key_id(certificates.public_key_of(certificate))


def _common_name(certificate: x509.Certificate) -> str:
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert isinstance(attribute.value, str)
    return attribute.value


@pytest.mark.parametrize(
    "config",
    [
        CAConfig(csr_max_per_second=math.inf),
        CAConfig(csr_max_per_second=math.nan),
        CAConfig(csr_max_per_second=-1),
        CAConfig(csr_max_per_second=1e10),
        CAConfig(leaf_cert_ttl_seconds=0),
        CAConfig(root_cert_ttl_seconds=2**62),
    ],
    ids=str,
)
async def test_what_the_ledger_could_not_tell_is_refused_before_a_key_is_made(
    config: CAConfig,
) -> None:
    """Each try made two more keys, and ended in an entry that is void."""
    roots, signing = KeysInMemory("root"), KeysInMemory("signing")

    with pytest.raises(ConfigError, match="cannot be configured like this"):
        await made_of(config, root_keys=roots, signing_keys=signing)

    assert await roots.stored() == []
    assert await signing.stored() == []
