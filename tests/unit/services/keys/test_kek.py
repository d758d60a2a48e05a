"""Where key-encryption keys come from, and what they seal."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.keys.kek import KeyEncryptionKey, KeyEncryptionKeyError, SealBrokenError, load

HEX = "0123456789abcdef" * 4
SECRET = bytes.fromhex(HEX)


def key_file(folder: Path, text: str = HEX + "\n", mode: int = 0o600) -> Path:
    path = folder / "signing.kek"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_what_is_sealed_opens_with_the_same_key_and_binding_only() -> None:
    kek = KeyEncryptionKey(SECRET)
    sealed = kek.seal(b"plain", bound_to=b"here")

    assert kek.open(sealed, bound_to=b"here") == b"plain"
    with pytest.raises(SealBrokenError):
        kek.open(sealed, bound_to=b"there")
    with pytest.raises(SealBrokenError):
        KeyEncryptionKey(bytes(32)).open(sealed, bound_to=b"here")


@pytest.mark.parametrize("size", [0, 16, 31, 33, 64])
def test_a_key_encryption_key_has_32_bytes(size: int) -> None:
    with pytest.raises(KeyEncryptionKeyError, match="32 bytes"):
        KeyEncryptionKey(bytes(size))


def test_every_altered_byte_and_every_cut_is_noticed() -> None:
    kek = KeyEncryptionKey(SECRET)
    sealed = kek.seal(b"plain", bound_to=b"")

    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        with pytest.raises(SealBrokenError):
            kek.open(bytes(altered), bound_to=b"")
        with pytest.raises(SealBrokenError):
            kek.open(sealed[:place], bound_to=b"")


def test_the_same_plaintext_is_never_sealed_alike() -> None:
    kek = KeyEncryptionKey(SECRET)

    assert len({kek.seal(b"plain", bound_to=b"") for _ in range(100)}) == 100


def test_a_key_is_known_by_its_check_which_is_no_part_of_it() -> None:
    kek = KeyEncryptionKey(SECRET)

    assert kek.is_named(KeyEncryptionKey(SECRET).check)
    assert not kek.is_named(KeyEncryptionKey(bytes(32)).check)
    assert kek.check not in SECRET


def test_f27_a_key_does_not_show_itself(tmp_path: Path) -> None:
    assert HEX not in repr(KeyEncryptionKey(SECRET))
    with pytest.raises(KeyEncryptionKeyError) as error:
        load(f"file:{key_file(tmp_path, HEX + 'f')}")
    assert HEX[:8] not in str(error.value)


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    assert load(f"file:{key_file(tmp_path)}").is_named(KeyEncryptionKey(SECRET).check)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeyEncryptionKeyError, match="chmod 600"):
        load(f"file:{key_file(tmp_path, mode=mode)}")


@pytest.mark.parametrize("text", ["", HEX[:-1], HEX + "0", "g" * 64, HEX + "\n" + HEX])
def test_anything_but_64_hex_characters_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(KeyEncryptionKeyError, match="64 hex"):
        load(f"file:{key_file(tmp_path, text)}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyEncryptionKeyError, match=r"nowhere.*No such file"):
        load(f"file:{tmp_path / 'nowhere'}")


def test_a_key_comes_from_the_environment() -> None:
    environ = {"SIGNING_KEK": HEX}

    assert load("env:SIGNING_KEK", environ=environ).is_named(KeyEncryptionKey(SECRET).check)
    with pytest.raises(KeyEncryptionKeyError, match="OTHER_KEK"):
        load("env:OTHER_KEK", environ=environ)


def test_a_key_comes_from_systemd(tmp_path: Path) -> None:
    key_file(tmp_path, mode=0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

    assert load("credential:signing.kek", environ=environ).is_named(KeyEncryptionKey(SECRET).check)


@pytest.mark.parametrize("name", ["../signing.kek", "..", "", "a/b"])
def test_a_credential_is_a_name_and_no_path(tmp_path: Path, name: str) -> None:
    key_file(tmp_path)
    (tmp_path / "in").mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "in")}

    with pytest.raises(KeyEncryptionKeyError, match="no such systemd credential"):
        load(f"credential:{name}", environ=environ)


@pytest.mark.parametrize("source", ["", HEX, "vault:key", "FILE:/x"])
def test_any_other_source_is_refused_without_repeating_it(source: str) -> None:
    with pytest.raises(KeyEncryptionKeyError) as error:
        load(source)
    assert not source or source not in str(error.value)
