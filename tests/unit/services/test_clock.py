"""Identifiers of the machine's own randomness."""

from __future__ import annotations

from ulid import ULID

from services.clock import SystemClock, SystemEntropy
from services.stamping import Stamper
from tests.factories import NOW
from tests.ledger import acquired


def test_a_ulid_carries_its_time() -> None:
    assert ULID.from_str(SystemEntropy().ulid(NOW)).datetime == NOW


def test_a_fraction_is_from_0_to_below_1_and_none_like_another() -> None:
    fractions = {SystemEntropy().fraction() for _ in range(1_000)}

    assert len(fractions) == 1_000
    assert 0 <= min(fractions) < 0.1
    assert 0.9 < max(fractions) < 1


def test_two_writers_in_one_process_never_share_an_event_id() -> None:
    """Both count up within a millisecond, from where chance put them."""
    writers = [Stamper("/caledger/dc1/test/n1", SystemClock(), SystemEntropy()) for _ in range(2)]
    event = acquired().event

    ids = [writer.stamp(event, subject="n1").id for _ in range(2_000) for writer in writers]

    assert len(set(ids)) == len(ids)


def test_f12_a_serial_is_positive_of_17_octets_and_128_of_its_bits_are_random() -> None:
    serials = [SystemEntropy().serial() for _ in range(200)]
    always = ever = serials[0]
    for serial in serials:
        always, ever = always & serial, ever | serial

    assert (always, ever) == (1 << 128, (1 << 129) - 1)
    assert len(set(serials)) == len(serials)
    assert {len(serial.to_bytes(serial.bit_length() // 8 + 1, "big")) for serial in serials} == {17}
