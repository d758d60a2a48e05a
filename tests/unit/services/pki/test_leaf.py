from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from services.pki import certificates
from services.pki.certificates import CertificateError
from services.pki.leaf import LeafTemplate, validity
from services.refusals import RefusedError
from tests import factories
from tests.factories import CA_KINDS, LEAF_KINDS, NOW, SERIAL, WEB, CaPrivateKey

HOUR = timedelta(hours=1)
YEAR_2050 = datetime(2050, 1, 1, tzinfo=UTC)


def by_the_general_builder(
    *,
    issuer: bytes,
    key: CaPrivateKey,
    serial: int,
    uri: str,
    not_before: datetime,
    not_after: datetime,
    signer: CaPrivateKey,
    dns: Sequence[str] = (),
    ip: Sequence[str] = (),
) -> bytes:
    """Return the TBSCertificate that cryptography's builder makes of the same leaf."""
    parent = x509.load_der_x509_certificate(issuer)
    rsa = factories.key_type_of(key) == "rsa"
    usage = x509.KeyUsage(
        digital_signature=True,
        key_encipherment=rsa,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = [x509.OID_CLIENT_AUTH, x509.OID_SERVER_AUTH]
    authority_key = certificates.subject_key_id(issuer)
    key_id = bytes.fromhex(certificates.key_id(key.public_key()))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(parent.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(authority_key, None, None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier(key_id), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    *map(x509.DNSName, dns),
                    *(x509.IPAddress(ip_address(address)) for address in ip),
                    x509.UniformResourceIdentifier(uri),
                ]
            ),
            critical=True,
        )
    )
    return builder.sign(signer, hashes.SHA256()).tbs_certificate_bytes


def by_the_template(
    *,
    issuer: bytes,
    key: CaPrivateKey,
    serial: int,
    uri: str,
    not_before: datetime,
    not_after: datetime,
    dns: Sequence[str] = (),
    ip: Sequence[str] = (),
) -> bytes:
    return LeafTemplate(issuer).tbs(
        serial=serial,
        spki=certificates.spki_of(key.public_key()),
        key_id=certificates.key_id(key.public_key()),
        uri=uri,
        not_before=not_before,
        not_after=not_after,
        dns=dns,
        ip=ip,
    )


@cache
def issuer_of(kind: str) -> bytes:
    return factories.hierarchy(signing_kind=kind).intermediate


@pytest.mark.parametrize("ca_kind", CA_KINDS)
@pytest.mark.parametrize("leaf_kind", LEAF_KINDS)
def test_the_template_makes_the_general_builders_bytes(leaf_kind: str, ca_kind: str) -> None:
    """43. SignLeaf over key types: URI kept, CN empty, SKI = key id of the CSR's key."""
    issuer, key, signer = (
        issuer_of(ca_kind),
        factories.ca_key(leaf_kind, 2),
        factories.ca_key(ca_kind, 1),
    )
    begin, end = NOW - timedelta(minutes=1), NOW + HOUR

    expected = by_the_general_builder(
        issuer=issuer,
        key=key,
        serial=SERIAL,
        uri=WEB,
        not_before=begin,
        not_after=end,
        signer=signer,
    )
    made = by_the_template(
        issuer=issuer, key=key, serial=SERIAL, uri=WEB, not_before=begin, not_after=end
    )

    assert made == expected


@given(
    serial=st.integers(1, 2**159 - 1) | st.sampled_from([1, 127, 128, 255, 256, 1 << 127]),
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=150),
    begin=st.integers(0, 10**10).map(lambda seconds: NOW + timedelta(seconds=seconds // 2)),
    seconds=st.integers(1, 10**9),
    leaf_kind=st.sampled_from(["p256", "p384", "rsa2048"]),
    ca_kind=st.sampled_from(["p256", "rsa2048"]),
    dns=st.lists(st.from_regex(r"[a-z0-9]{1,60}(\.[a-z]{1,9}){0,9}", fullmatch=True), max_size=9),
    ip=st.lists(st.ip_addresses().map(str), max_size=9),
)
@settings(deadline=None)
def test_the_template_makes_the_general_builders_bytes_whatever_the_sizes(
    serial: int,
    name: str,
    begin: datetime,
    seconds: int,
    leaf_kind: str,
    ca_kind: str,
    dns: list[str],
    ip: list[str],
) -> None:
    issuer, key = issuer_of(ca_kind), factories.ca_key(leaf_kind, 2)
    signer = factories.ca_key(ca_kind, 1)
    uri = factories.service_uri(f"x{name}")
    end = begin + timedelta(seconds=seconds)

    expected = by_the_general_builder(
        issuer=issuer,
        key=key,
        serial=serial,
        uri=uri,
        not_before=begin,
        not_after=end,
        signer=signer,
        dns=dns,
        ip=ip,
    )
    made = by_the_template(
        issuer=issuer,
        key=key,
        serial=serial,
        uri=uri,
        not_before=begin,
        not_after=end,
        dns=dns,
        ip=ip,
    )

    assert made == expected


@pytest.mark.parametrize(
    ("not_after", "written"),
    [
        (YEAR_2050 - timedelta(seconds=1), b"\x17\x0d491231235959Z"),
        (YEAR_2050, b"\x18\x0f20500101000000Z"),
    ],
)
def test_times_from_2050_on_are_written_with_four_digits_of_the_year(
    not_after: datetime, written: bytes
) -> None:
    made = by_the_template(
        issuer=issuer_of("p256"),
        key=factories.ca_key(number=2),
        serial=SERIAL,
        uri=WEB,
        not_before=NOW,
        not_after=not_after,
    )

    assert b"\x17\x0d260801120000Z" + written in made


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_a_serial_number_outside_rfc_5280_is_a_bug(serial: int) -> None:
    with pytest.raises(AssertionError, match="serial number"):
        factories.hierarchy().leaf(serial=serial)


def test_a_moment_that_is_not_utc_is_a_bug() -> None:
    elsewhere = NOW.astimezone(timezone(HOUR))
    with pytest.raises(AssertionError, match="UTC"):
        by_the_template(
            issuer=issuer_of("p256"),
            key=factories.ca_key(),
            serial=SERIAL,
            uri=WEB,
            not_before=elsewhere,
            not_after=elsewhere,
        )


def test_a_template_tells_its_issuers_life() -> None:
    made = factories.hierarchy()
    template = LeafTemplate(made.intermediate)
    issuer = x509.load_der_x509_certificate(made.intermediate)

    assert template.not_before == issuer.not_valid_before_utc
    assert template.not_after == issuer.not_valid_after_utc
    assert template.issuer_key_type == "ec"


def test_there_is_no_template_for_what_is_no_certificate() -> None:
    with pytest.raises(CertificateError):
        LeafTemplate(b"junk")


def test_a_leaf_begins_a_minute_ago_and_lasts_its_time_to_live() -> None:
    not_before, not_after = validity(
        NOW.replace(microsecond=999_999),
        ttl_seconds=3600,
        issuer_not_before=NOW - HOUR,
        issuer_not_after=NOW + 9 * HOUR,
    )

    assert not_before == NOW - timedelta(minutes=1)
    assert not_after == not_before + HOUR


@given(
    now=st.integers(-7200, 7199),
    micros=st.integers(0, 999_999),
    ttl_seconds=st.integers(1, 40_000_000),
    issuer_seconds=st.integers(1, 7200),
)
def test_no_leaf_is_valid_when_its_issuer_is_not(
    now: int, micros: int, ttl_seconds: int, issuer_seconds: int
) -> None:
    """H9: Consul's leaves may outlive their issuer. Failure F18."""
    issuer_not_after = NOW + timedelta(seconds=issuer_seconds)
    moment = NOW + timedelta(seconds=now, microseconds=micros)
    try:
        not_before, not_after = validity(
            moment,
            ttl_seconds=ttl_seconds,
            issuer_not_before=NOW,
            issuer_not_after=issuer_not_after,
        )
    except RefusedError:
        assert moment > issuer_not_after
        return

    assert NOW <= not_before <= not_after <= issuer_not_after
    assert not_before.microsecond == not_after.microsecond == 0
    assert not_after - not_before <= timedelta(seconds=ttl_seconds)


def test_an_issuer_whose_life_is_over_signs_nothing() -> None:
    with pytest.raises(RefusedError) as refused:
        validity(
            NOW + timedelta(microseconds=1),
            ttl_seconds=3600,
            issuer_not_before=NOW - HOUR,
            issuer_not_after=NOW,
        )

    assert refused.value.code == "not_ready"
    assert refused.value.message == (
        "intermediate expired: certificate expired, expiration date: 2026-08-01 12:00:00 +0000 UTC"
    )
