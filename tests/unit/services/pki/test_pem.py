from __future__ import annotations

import ssl
from typing import get_args

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from services.pki import pem
from tests import factories


@given(st.binary(min_size=1, max_size=3000))
def test_pem_reads_back_as_what_it_was_made_of(der: bytes) -> None:
    assert ssl.PEM_cert_to_DER_cert(pem.encode(der)) == der


@given(st.binary(min_size=1, max_size=300), st.sampled_from(get_args(pem.Label)))
def test_how_long_pem_gets_is_known_before(der: bytes, label: pem.Label) -> None:
    assert pem.length(der, label) == len(pem.encode(der, label))


def test_pem_is_written_as_openssl_writes_it() -> None:
    der = factories.root()
    expected = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)

    assert pem.encode(der) == expected.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [("08", "08"), ("8", "08"), ("ABC", "0a:bc"), ("0102ff", "01:02:ff"), ("", "")],
)
def test_hex_is_shown_as_octets_with_colons(text: str, shown: str) -> None:
    assert pem.colon_hex(text) == shown
