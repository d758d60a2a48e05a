"""What a refusal says of what it was sent."""

from __future__ import annotations

import pytest

from services.refusals import MESSAGE_CHARS_MAX, clip
from tests.factories import ca_key, private_pem


@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_h12_a_private_key_is_not_repeated(kind: str) -> None:
    """H12: somebody put it where it does not belong; it would stand in answers and in logs."""
    pem = private_pem(ca_key(kind)).decode()

    for text in (pem, pem.replace("\n", "\\n"), pem[:60], pem.replace(" PRIVATE", " EC PRIVATE")):
        assert clip(f"there is no key {text!r}") == "there is no key '(a private key)"


def test_a_long_message_is_cut() -> None:
    assert len(clip("x" * 10_000)) == MESSAGE_CHARS_MAX
    assert clip("-----BEGIN CERTIFICATE-----") == "-----BEGIN CERTIFICATE-----"
