"""Files that only their owner can read, whatever the umask; wider ones are tightened with one log line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minitoolai.core.private_files import create_private_file, make_private_folder, private_opener, tighten


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_new_files_and_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "data")
    create_private_file(tmp_path / "data" / "empty")
    with open(tmp_path / "data" / "written", "wb", opener=private_opener) as file:
        file.write(b"secret")
    assert mode(tmp_path / "data") == 0o700
    assert mode(tmp_path / "data" / "empty") == mode(tmp_path / "data" / "written") == 0o600


def test_what_exists_is_neither_emptied_nor_replaced(tmp_path: Path) -> None:
    (tmp_path / "books").write_bytes(b"money")
    create_private_file(tmp_path / "books")
    make_private_folder(tmp_path)
    assert (tmp_path / "books").read_bytes() == b"money"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        make_private_folder(tmp_path / "file")


def test_wide_modes_are_tightened_once_with_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "objects" / "ab").mkdir(parents=True)
    private = [tmp_path / "books.db", tmp_path / "books.db-wal", tmp_path / "objects" / "ab" / "image.png"]
    public = tmp_path / "voice.onnx"
    for path in [*private, public]:
        path.write_text("")
        path.chmod(0o644)
    for folder in (tmp_path / "objects", tmp_path / "objects" / "ab"):
        folder.chmod(0o755)
    with caplog.at_level(logging.WARNING):
        assert tighten(tmp_path, ["books.db*"], ["objects"]) == 6
    assert "tightened the modes of 6 files and folders" in caplog.text
    assert [mode(path) for path in private] == [0o600] * 3
    assert [mode(tmp_path), mode(tmp_path / "objects"), mode(tmp_path / "objects" / "ab")] == [0o700] * 3
    assert mode(public) == 0o644
    assert tighten(tmp_path, ["books.db*"], ["objects"]) == 0


def test_a_folder_that_everybody_shares_is_left_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert tighten(shared, [], ["objects"]) == 0
    assert mode(shared) == 0o1777
    assert "is open to other users" in caplog.text


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    elsewhere.chmod(0o644)
    (tmp_path / "data").mkdir(0o700)
    (tmp_path / "data" / "secret.key").symlink_to(elsewhere)
    assert tighten(tmp_path / "data", ["secret*.key"], []) == 0
    assert mode(elsewhere) == 0o644
