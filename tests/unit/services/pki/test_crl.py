"""How long a revocation list gets is known before it is signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from events.base import INT_MAX
from services.pki import crl
from services.pki.crl import AROUND_BYTES, Entry
from tests.external_ca import given_ca
from tests.factories import CA_KINDS, NOW, ca_key, root, sign_with

SERIALS = st.integers(0, 158).map(lambda bits: 1 << bits) | st.integers(1, (1 << 159) - 1)
MOMENTS = st.datetimes(
    datetime(2000, 1, 1, tzinfo=UTC).replace(tzinfo=None),
    datetime(2090, 1, 1, tzinfo=UTC).replace(tzinfo=None),
    timezones=st.just(UTC),
)
ENTRIES = st.lists(
    st.builds(Entry, serial=SERIALS, at=MOMENTS, reason=st.sampled_from([*crl.REASONS])),
    max_size=40,
    unique_by=lambda entry: entry.serial,
)


def tbs(issuer: bytes, entries: list[Entry]) -> bytes:
    return crl.tbs(
        issuer=issuer,
        entries=entries,
        number=INT_MAX,
        this_update=NOW,
        next_update=NOW + timedelta(days=3),
    )


@pytest.mark.parametrize("bits", [0, 1, 128, 159, 160, 161])
def test_a_number_is_said_to_fit_where_it_does(bits: int) -> None:
    for number in (1 << bits >> 1, (1 << bits) - 1):
        entry = Entry(serial=number, at=NOW, reason="unspecified")
        if crl.is_serial(number):
            tbs(root(), [entry])
        else:
            with pytest.raises(ValueError, match="serial number should"):
                tbs(root(), [entry])


@given(entries=ENTRIES)
@settings(deadline=None, max_examples=50)
def test_each_entry_is_counted_exactly(entries: list[Entry]) -> None:
    issuer = root()

    grown = len(tbs(issuer, entries)) - len(tbs(issuer, []))

    said = sum(map(crl.entry_bytes, entries))
    # A header for all entries, and the length of the whole may take two bytes more.
    assert said <= grown <= said + 6 * bool(entries)


@pytest.mark.parametrize("kind", CA_KINDS)
@pytest.mark.parametrize("count", [0, 1, 700])
def test_no_list_is_longer_than_it_was_said_to_get(kind: str, count: int) -> None:
    entries = [Entry(serial=n + 1, at=NOW, reason="key_compromise") for n in range(count)]
    given_one = given_ca(kind)
    for issuer, key in (
        (root(key=ca_key(kind)), ca_key(kind)),
        (given_one.chain[0], given_one.key),
    ):
        unsigned = tbs(issuer, entries)
        listed = crl.assemble(unsigned, sign_with(key, unsigned), issuer)

        most = crl.bytes_most(issuer, entries)
        assert most - len(issuer) - AROUND_BYTES <= len(listed) <= most
        assert len(x509.load_der_x509_crl(listed)) == count
