"""Static files have URLs that change with their content."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from minitoolai.portal.site import NAVIGATION, StaticFiles


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "page.css").write_text("body {}")
    (tmp_path / "scripts" / "chat.js").write_text("export {}")
    (tmp_path / "notes.txt").write_text("not served")
    return tmp_path


def test_a_file_is_found_under_its_url(folder: Path) -> None:
    files = StaticFiles(folder)
    file = files.find(files.url("scripts/chat.js").removeprefix("/static"))
    assert file is not None
    assert (file.body, file.media_type) == (b"export {}", "text/javascript")
    assert gzip.decompress(file.gzipped) == file.body


def test_a_change_of_one_file_changes_the_urls_of_all(folder: Path) -> None:
    before = StaticFiles(folder)
    (folder / "scripts" / "chat.js").write_text("export { chat }")
    after = StaticFiles(folder)
    assert before.url("page.css") != after.url("page.css")
    assert after.find(before.url("page.css").removeprefix("/static")) is None


@pytest.mark.parametrize(
    "path", ["", "/", "{version}", "{version}/", "{version}/notes.txt", "{version}/../page.css", "x/page.css"]
)
def test_other_paths_find_nothing(folder: Path, path: str) -> None:
    files = StaticFiles(folder)
    assert files.find(path.format(version=files.version)) is None


def test_a_template_cannot_link_to_a_file_that_does_not_exist(folder: Path) -> None:
    with pytest.raises(KeyError):
        StaticFiles(folder).url("missing.css")


def test_only_admins_see_the_link_to_the_admin_pages() -> None:
    assert {entry.path for entry in NAVIGATION if entry.access == "admin"} == {"/admin"}
