"""A node's folder: no key-encryption key is made where one was."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.config import ConfigError
from services.keys.interface import WrongKeyEncryptionKeyError
from services.keys.kek import KeyEncryptionKeyError, load
from services.node_file import NodeOptions, settle
from services.setup_node import KEKS, nats_kek, set_up

SECRET = "5a" * 32


def begun(data: Path, *names: str) -> NodeOptions:
    """A folder whose `init` did not get to the streams, with these key-encryption keys."""
    options = NodeOptions(data=data)
    settle(options)
    keys = data / "keys"
    keys.mkdir()
    for name in names:
        (keys / f"{name}.kek").write_text(SECRET)
        (keys / f"{name}.kek").chmod(0o600)
        check = load(f"file:{keys / f'{name}.kek'}").check
        (keys / f"{name}.check").write_text(check.hex())
    return options


def held(data: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (data / "keys").iterdir()}


@pytest.mark.parametrize("name", KEKS)
async def test_a_key_that_was_there_is_not_made_again_though_no_streams_were_made(
    tmp_path: Path, name: str
) -> None:
    options = begun(tmp_path, name)
    (tmp_path / "keys" / f"{name}.kek").unlink()
    before = held(tmp_path)

    with pytest.raises(ConfigError, match=rf"{name}\.kek is missing"):
        await set_up(options)

    assert held(tmp_path) == before


@pytest.mark.parametrize("name", KEKS)
async def test_a_wrong_key_is_told_before_another_is_made(tmp_path: Path, name: str) -> None:
    options = begun(tmp_path, name)
    (tmp_path / "keys" / f"{name}.kek").write_text("a5" * 32)
    before = held(tmp_path)

    with pytest.raises(WrongKeyEncryptionKeyError, match=rf"{name}\.kek is not the key"):
        await set_up(options)

    assert held(tmp_path) == before


def test_the_key_of_nats_seeds_is_refused_too_where_others_may_read_it(tmp_path: Path) -> None:
    begun(tmp_path, "nats")
    file = tmp_path / "keys" / "nats.kek"
    file.chmod(0o640)

    with pytest.raises(KeyEncryptionKeyError, match="chmod 600"):
        nats_kek(tmp_path)
