from __future__ import annotations

from pathlib import Path

import pytest

from services.nats_access.files import write_atomically


def test_a_file_is_written_whole_with_its_mode_whatever_was_there(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "file"

    write_atomically(file, b"first", mode=0o644)
    write_atomically(file, b"second", mode=0o600)

    assert file.read_bytes() == b"second"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_is_made_for_it_is_its_owners_only(tmp_path: Path) -> None:
    write_atomically(tmp_path / "folder" / "file", b"x")

    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file" / "in the way").mkdir(parents=True)

    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "file", b"x")

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_that_someone_laid_where_it_writes_is_not_followed(tmp_path: Path) -> None:
    import os

    victim = tmp_path / "victim"
    victim.write_bytes(b"before")
    (tmp_path / f".file.{os.getpid()}.new").symlink_to(victim)

    with pytest.raises(OSError, match="symbolic"):
        write_atomically(tmp_path / "file", b"x")

    assert victim.read_bytes() == b"before"
