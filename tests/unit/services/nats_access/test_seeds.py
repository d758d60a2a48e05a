from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.keys.kek import KeyEncryptionKey
from services.nats_access import seeds
from services.nats_access.seeds import Kind, Nkey, SeedError, WrongKeyError

KEK = KeyEncryptionKey(bytes(range(32)))


@pytest.mark.parametrize(
    ("kind", "letter"), [(Kind.OPERATOR, "O"), (Kind.ACCOUNT, "A"), (Kind.USER, "U")]
)
def test_a_key_says_what_it_is_for(kind: Kind, letter: str) -> None:
    key = Nkey.generate(kind)

    assert key.public.startswith(letter)
    assert key.seed.startswith(b"S" + letter.encode())
    assert key.public not in {Nkey.generate(kind).public for _ in range(3)}


def test_a_key_says_nothing_of_its_seed_when_it_is_printed() -> None:
    key = Nkey.generate(Kind.USER)

    assert key.seed.decode() not in repr(key)


def test_a_sealed_key_is_what_was_sealed_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "operator.sealed"
    key = Nkey.generate(Kind.OPERATOR)

    seeds.seal(file, key.seed, KEK)

    assert seeds.load(file, KEK).public == key.public
    assert file.stat().st_mode & 0o777 == 0o600
    assert key.seed not in file.read_bytes()


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_the_wrong_key_opens_nothing_and_changes_nothing(tmp_path: Path, secret: bytes) -> None:
    file = tmp_path / "operator.sealed"
    seeds.seal(file, b"a seed", KEK)
    before = file.read_bytes()

    with pytest.raises(WrongKeyError):
        seeds.unseal(file, KeyEncryptionKey(secret))

    assert file.read_bytes() == before


def test_no_sealed_file_passes_for_another(tmp_path: Path) -> None:
    file = tmp_path / "clients-signing.sealed"
    seeds.seal(file, b"a seed", KEK)
    other = file.rename(tmp_path / "operator.sealed")

    with pytest.raises(WrongKeyError):
        seeds.unseal(other, KEK)


@given(place=st.integers(0, 34), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, place: int, bit: int
) -> None:
    file = tmp_path_factory.mktemp("seeds") / "key.sealed"
    seeds.seal(file, b"a seed", KEK)
    content = bytearray(file.read_bytes())
    assert len(content) == 35
    content[place] ^= 1 << bit
    file.write_bytes(content)

    with pytest.raises(SeedError):
        seeds.unseal(file, KEK)


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x02" + bytes(60), b"\x01" + bytes(5000)])
def test_what_is_no_sealed_file_is_not_read(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key.sealed"
    file.write_bytes(content)

    with pytest.raises(SeedError):
        seeds.unseal(file, KEK)


def test_a_seed_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SeedError, match=r"operator\.sealed"):
        seeds.load(tmp_path / "operator.sealed", KEK)


def test_a_signature_is_ed25519_over_the_message() -> None:
    import base64

    key = Nkey.generate(Kind.USER)
    raw_seed = base64.b32decode(key.seed + b"=" * (-len(key.seed) % 8))[2:34]

    assert key.sign(b"message") == Ed25519PrivateKey.from_private_bytes(raw_seed).sign(b"message")
