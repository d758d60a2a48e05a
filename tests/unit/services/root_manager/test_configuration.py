"""The configuration as operators write it: what is taken, what is refused, and in which words."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from events.authority import AllowedNames, CAConfig, CAConfigured
from projections.authority import AuthorityState
from services.config import ConfigError, InitialSection
from services.keys.interface import PrivateKey
from services.outcomes import KEY_REFERENCE
from services.pki import certificates, pem, sans
from services.refusals import RefusedError
from services.root_manager import configuration
from services.root_manager.configuration import _TOP, Wanted
from services.root_manager.configuration_keys import CONFIG
from tests.external_ca import given_ca
from tests.factories import NOW
from tests.unit.services.root_manager.keys import made

HOUR = 3600


def read(body: object, *, current: CAConfig | None = None) -> Wanted:
    return configuration.read(json.dumps(body).encode(), current=current, now=NOW)


def config(**fields: object) -> CAConfig:
    return read({"Config": fields}).config


def refused(body: object, *, current: CAConfig | None = None) -> str:
    with pytest.raises(RefusedError) as error:
        read(body, current=current)
    assert error.value.code == "bad_config"
    return error.value.message


def key_pem(key: PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()


def configured(config: CAConfig) -> AuthorityState:
    event = CAConfigured(cluster_id="c", trust_domain="c.consul", provider="consul", config=config)
    return AuthorityState(datacenter="dc1", configuration=event, configured=7, first_configured=3)


def test_h1_what_is_missing_has_its_default_and_not_0() -> None:
    """H1: a configuration without LeafCertTTL keeps 72 h, so that roots are pruned after 144 h."""
    assert config(CSRMaxPerSecond=1) == CAConfig(csr_max_per_second=1, sans=sans.DEFAULT)
    assert config().leaf_cert_ttl_seconds == 72 * HOUR
    assert read({}).config == config()


def test_47_durations_are_texts_of_go_nanoseconds_or_bytes() -> None:
    """47. Config parsing: byte-slice durations accepted."""
    for written in ("24h", "1440m", 24 * HOUR * 10**9, list(b"24h"), "23h60m"):
        assert config(LeafCertTTL=written).leaf_cert_ttl_seconds == 24 * HOUR


@pytest.mark.parametrize(
    "written",
    ["24", "1d", "", "h", "1e3s", "-24h", "1500ms", "0", 0, -1, True, [300], [], "9" * 400 + "h"],
)
def test_what_is_no_duration_is_refused(written: object) -> None:
    assert refused({"Config": {"LeafCertTTL": written}}).startswith("LeafCertTTL: ")


def test_names_are_compared_as_consul_compares_them() -> None:
    both = read({"config": {"leaf_cert_ttl": "24h"}, "force_without_cross_signing": True})

    assert both.config.leaf_cert_ttl_seconds == 24 * HOUR
    assert both.force_without_cross_signing
    assert read({"ForceWithoutCrossSigning": True}).force_without_cross_signing


def test_an_unknown_key_is_refused_with_the_one_that_was_meant() -> None:
    assert "'LeafTTL': did you mean 'LeafCertTTL'?" in refused({"Config": {"LeafTTL": "72h"}})
    assert "did you mean 'ModifyIndex'?" in refused({"ModifyIdx": 1})
    assert "no key 'Quux'" in refused({"Config": {"Quux": 1}})


def test_a_key_that_is_written_twice_is_refused() -> None:
    twice = {"Config": {"LeafCertTTL": "24h", "leaf_cert_ttl": "48h"}}

    assert "'LeafCertTTL' is given twice" in refused(twice)


def test_a_key_that_is_said_twice_in_the_same_spelling_is_refused_too() -> None:
    body = b'{"Config": {"LeafCertTTL": "24h", "LeafCertTTL": "48h"}}'

    with pytest.raises(RefusedError, match="'LeafCertTTL' is given twice") as error:
        configuration.read(body, current=None, now=NOW)

    assert error.value.code == "malformed"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"LeafCertTTL": "24h"}, "there is no key 'LeafCertTTL': it belongs in Config"),
        ({"leaf_cert_ttl": "24h"}, "there is no key 'leaf_cert_ttl': it belongs in Config"),
        (
            {"Config": {"LeafCertTTL": 24}},
            'LeafCertTTL: 24 means nanoseconds, as in Go: write a text with its unit, like "24h"',
        ),
        ({"Config": {"CSRMaxPerSecond": "many"}}, "CSRMaxPerSecond: a number was expected"),
        ({"Config": {"CSRMaxConcurrent": "many"}}, "CSRMaxConcurrent: a whole number was expected"),
        (
            {"Config": {"SANs": {"Service": {"DNS": "a.example"}}}},
            "SANs.Service.DNS: a list was expected",
        ),
        (
            {"Config": {"SANs": {"Agent": {"IPs": []}}}},
            "SANs.Agent: there is no key 'IPs': did you mean 'IP'?",
        ),
    ],
)
def test_a_refusal_says_what_to_write_instead(body: dict[str, object], text: str) -> None:
    assert text in refused(body)


def test_rotation_period_is_taken_and_has_no_meaning() -> None:
    assert config(RotationPeriod="2160h") == config()


def test_numbers_may_stand_in_texts() -> None:
    taken = config(PrivateKeyBits="384", CSRMaxPerSecond="2.5", CSRMaxConcurrent="4")

    assert taken.private_key_bits == 384
    assert (taken.csr_max_per_second, taken.csr_max_concurrent) == (2.5, 4)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"RootCertTTL": "100h"},
            (
                "root cert TTL is set and is not greater than intermediate cert ttl. "
                "root cert ttl: 100h0m0s, intermediate cert ttl: 8760h0m0s"
            ),
        ),
        ({"LeafCertTTL": "59m59s"}, "leaf cert TTL must be greater or equal than 1h0m0s"),
        (
            {"LeafCertTTL": "8761h", "IntermediateCertTTL": "30000h"},
            "leaf cert TTL must be less than 8760h0m0s",
        ),
        (
            {"IntermediateCertTTL": "2h", "LeafCertTTL": "1h"},
            "Intermediate Cert TTL must be greater or equal than 3h",
        ),
        (
            {"IntermediateCertTTL": "215h"},
            "Intermediate Cert TTL must be greater or equal than 3 * LeafCertTTL (>=216h0m0s).",
        ),
        ({"PrivateKeyType": "dsa"}, "private key type must be either 'ec' or 'rsa'"),
        (
            {"PrivateKeyBits": 255},
            "EC key length must be one of (224, 256, 384, 521) bits",
        ),
        (
            {"PrivateKeyType": "rsa", "PrivateKeyBits": 1024},
            "RSA key length must be 2048, 3072 or 4096 bits",
        ),
        ({"RootCert": "x"}, "must provide a private key when providing a root cert"),
        ({"PrivateKey": "x"}, "PrivateKey: no PEM-encoded data found"),
    ],
)
def test_ranges_and_texts_are_consuls(fields: dict[str, object], text: str) -> None:
    assert refused({"Config": fields}) == text


def test_ranges_hold_at_their_ends_and_skip_validate_skips_them() -> None:
    shortest = config(LeafCertTTL="1h", IntermediateCertTTL="3h", RootCertTTL="3h")
    longest = config(LeafCertTTL="8760h", IntermediateCertTTL="26280h")
    assert shortest.leaf_cert_ttl_seconds * 8760 == longest.leaf_cert_ttl_seconds
    assert config(LeafCertTTL="1s", SkipValidate=True).leaf_cert_ttl_seconds == 1


@pytest.mark.parametrize("bits", [224, 521])
def test_curves_that_not_every_verifier_takes_are_refused_although_consul_has_them(
    bits: int,
) -> None:
    """Envoy refuses P-521, and others P-224 (architecture, section 8)."""
    assert f"{bits} bits" in refused({"Config": {"PrivateKeyBits": bits, "SkipValidate": True}})


def test_the_provider_is_the_built_in_one_and_its_state_is_read_only() -> None:
    assert read({"Provider": "consul", "State": None}) == read({"State": {}})
    assert refused({"Provider": "x"}) == 'unknown CA provider "x"'
    assert "not supported yet" in refused({"Provider": "vault"})
    assert refused({"State": {"a": "b"}}) == (
        "Provider State is read-only. It must be omitted or identical to the current value"
    )


def test_a_key_that_is_given_names_its_own_type() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    wanted = read({"Config": {"PrivateKey": key_pem(key)}})

    assert wanted.private_key is not None
    assert wanted.config.given_key_id == certificates.key_id(key.public_key())
    assert (wanted.config.private_key_type, wanted.config.private_key_bits) == ("rsa", 2048)
    contrary = {"PrivateKey": key_pem(key), "PrivateKeyType": "ec"}
    assert refused({"Config": contrary}) == "the private key is rsa of 2048 bits, not ec of 2048"


def test_h12_a_given_key_is_told_as_a_reference_which_can_be_given_back() -> None:
    """H12: GET configuration returns Consul's private key."""
    key = ec.generate_private_key(ec.SECP384R1())
    wanted = read({"Config": {"PrivateKey": key_pem(key)}})

    told = json.loads(msgspec.json.encode(configuration.told(configured(wanted.config))))

    assert told["Config"]["PrivateKey"] == f"{KEY_REFERENCE}{wanted.config.given_key_id}"
    again = read(told, current=wanted.config)
    assert (again.config, again.private_key) == (wanted.config, None)
    assert read({"Config": {"PrivateKey": key_pem(key)}}, current=wanted.config).private_key is None
    assert "refers to a key that is not in use" in refused(told)
    assert "PRIVATE KEY" not in repr(wanted.config)


def test_no_refusal_repeats_a_private_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    body = key_pem(key).replace("\n", "\nA", 1)

    message = refused({"Config": {"PrivateKey": body}})

    assert not any(line in message for line in body.splitlines() if "-----" not in line)


async def test_31_what_is_told_can_be_set_again() -> None:
    """31. Config get/set round-trip."""
    wanted = config(
        LeafCertTTL="90m",
        PrivateKeyType="rsa",
        LeafSigner="root",
        CSRMaxPerSecond=0,
        CSRMaxConcurrent=3,
        SANs={"Service": {"DNS": ["*.Web.Example"], "IP": ["10.0.0.0/8", "::1"]}, "Agent": {}},
    )

    told = configuration.told(configured(wanted))
    again = configuration.read(msgspec.json.encode(told), current=wanted, now=NOW)

    assert again == Wanted(config=wanted, modify_index=7)
    assert (told.create_index, told.modify_index) == (3, 7)
    assert told.config["LeafCertTTL"] == "1h30m"
    assert wanted.sans.service == AllowedNames(dns=("*.web.example",), ip=("10.0.0.0/8", "::1"))
    assert wanted.sans.agent == AllowedNames()
    assert wanted.sans.server == sans.DEFAULT.server
    assert (await made(wanted)).configured.config == wanted


def test_h16_before_there_is_a_configuration_it_is_said_so() -> None:
    """H16: GET configuration before bootstrap dereferences a missing row."""
    with pytest.raises(RefusedError, match="uninitialized") as error:
        configuration.told(AuthorityState(datacenter="dc1"))

    assert error.value.code == "not_ready"


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b"\xff", b'{"Config": 1}', b"[]", b"1"])
def test_what_is_no_configuration_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError):
        configuration.read(body, current=None, now=NOW)


def test_a_body_that_is_too_large_is_not_read() -> None:
    with pytest.raises(RefusedError) as error:
        configuration.read(b" " * 300_000, current=None, now=NOW)

    assert error.value.code == "too_large"


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63, "9" * 400, "1e400"])
    | st.floats()
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
_NAMES = [*CONFIG, "DNS", "IP", "Service"]


@given(
    st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=4),
    st.dictionaries(st.sampled_from([*_TOP]), _JSON, max_size=4),
)
def test_whatever_is_sent_is_read_or_refused(fields: dict[str, Any], top: dict[str, Any]) -> None:
    for body in ({"Config": fields}, {"Config": {"SANs": fields}}, top):
        with suppress(RefusedError):
            wanted = configuration.read(json.dumps(body).encode(), current=None, now=NOW)
            assert msgspec.convert(msgspec.to_builtins(wanted.config), CAConfig) == wanted.config


@pytest.mark.parametrize("name", [*CONFIG, *_TOP])
@pytest.mark.parametrize("number", [b"9" * 400, b"-" + b"9" * 400, b"9" * 5_000, b"1e400"])
def test_no_number_is_too_large_to_be_refused(name: str, number: bytes) -> None:
    member = b'{"%s": %s}' % (name.encode(), number)
    body = b'{"Config": ' + member + b"}" if name in CONFIG else member
    expected = {"RotationPeriod", "CreateIndex"}  # whatever is there has no meaning

    with suppress(RefusedError) if name in expected else pytest.raises(RefusedError):
        configuration.read(body, current=None, now=NOW)


_GIVEN = given_ca(certificates=2)
_CHANGES = st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 7)), min_size=1, max_size=3)


def _flipped(der: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(der)
    for place, bit in changes:
        changed[place % len(changed)] ^= 1 << bit
    return bytes(changed)


def _set(*chain: bytes) -> None:
    told = {**_GIVEN.config, "RootCert": "".join(map(pem.encode, chain))}
    with suppress(RefusedError):
        read({"Config": told})


@pytest.mark.filterwarnings("ignore::UserWarning")  # of cryptography, about what it reads
@given(_CHANGES, st.sampled_from([0, 1]))
def test_a_chain_with_flipped_bits_is_read_or_refused(
    changes: list[tuple[int, int]], place: int
) -> None:
    chain = list(_GIVEN.chain)
    chain[place] = _flipped(chain[place], changes)

    _set(*chain)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(_CHANGES)
def test_a_wrong_certificate_that_is_well_signed_is_read_or_refused(
    changes: list[tuple[int, int]],
) -> None:
    """Its signature tells nobody: an operator's own tool may have made it."""
    key = _GIVEN.key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    tbs = _flipped(x509.load_der_x509_certificate(_GIVEN.chain[0]).tbs_certificate_bytes, changes)
    signature = key.sign(tbs, ec.ECDSA(hashes.SHA256()))

    _set(certificates.assemble(tbs, signature, "ec"), *_GIVEN.chain[1:])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("06082a8648ce3d030107", "06082a8648ce3d030106"),  # another curve (X9.62 prime239v3)
        ("06072a8648ce3d0201", "06072a8648ce3d0207"),  # of a key that nobody knows
        ("a003020102", "a003020104"),  # version 5
        ("0603551d0e", "0603551d13"),  # basic constraints twice
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_certificate_that_cryptography_does_not_read_is_refused(
    before: str, after: str, place: int
) -> None:
    chain = [der.hex() for der in _GIVEN.chain]
    assert before in chain[place]
    chain[place] = chain[place].replace(before, after, 1)
    told = "".join(pem.encode(bytes.fromhex(one)) for one in chain)

    message = refused({"Config": {**_GIVEN.config, "RootCert": told}})

    assert message.startswith(
        ("RootCert: a certificate that cannot be read: ", "RootCert: not a certificate: ")
    )


def test_a_first_configuration_comes_from_a_file(tmp_path: Any) -> None:
    file = tmp_path / "ca.json"
    section = InitialSection(ca_config=file)
    with pytest.raises(ConfigError, match=r"ca\.json: No such file"):
        configuration.initial(section, now=NOW)
    file.write_text('{"Config": {"LeafCertTTL": "24h"}}')

    assert configuration.initial(section, now=NOW).config.leaf_cert_ttl_seconds == 24 * HOUR
    assert configuration.initial(InitialSection(csr_max_per_second=3), now=NOW) == Wanted(
        config=CAConfig(csr_max_per_second=3, sans=sans.DEFAULT)
    )


def test_what_follows_a_configuration_may_wait_a_week_at_most() -> None:
    assert read({"WaitSeconds": 30}).wait_seconds == 30
    week = timedelta(days=7).total_seconds()
    assert read({"WaitSeconds": week, "RequestID": "r-1"}).request_id == "r-1"
    for wrong in ({"WaitSeconds": week + 1}, {"WaitSeconds": -1}, {"RequestID": "a b"}):
        refused(wrong)
