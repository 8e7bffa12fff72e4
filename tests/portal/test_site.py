"""Static files have URLs that change with their content, and languages share compiled templates."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from jinja2 import DictLoader
from jinja2.bccache import Bucket

from minitoolai.portal.site import NAVIGATION, CompiledTemplates, StaticFiles, language_environment


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


class CountedTemplates(CompiledTemplates):
    """Counts the compilations."""

    def __init__(self) -> None:
        super().__init__()
        self.compilations = 0

    def dump_bytecode(self, bucket: Bucket) -> None:
        super().dump_bytecode(bucket)
        self.compilations += 1


def test_languages_share_compiled_templates_but_neither_texts_nor_formats() -> None:
    # The arguments of the filters are constant, so that Jinja would apply them when it compiles the template.
    source = "{% trans %}Sign in{% endtrans %} {{ _('Keys') }} {{ 1234567.5 | number }} {{ 5000000000 | money }}"
    shown, compiled, sources = {}, CountedTemplates(), DictLoader({"a.html": source})
    for lang in ("de", "en", "fr"):
        environment = language_environment(lang, compiled)
        environment.loader = sources
        shown[lang] = environment.get_template("a.html").render()
    assert shown == {
        "de": "Anmelden Schlüssel 1.234.567,5 5,00\xa0$",
        "en": "Sign in Keys 1,234,567.5 $5.00",
        "fr": "Se connecter Clés 1\u202f234\u202f567,5 5,00\xa0$US",
    }
    assert compiled.compilations == 1
    sources.mapping["a.html"] = "{{ 1.5 | number }}"
    assert environment.get_template("a.html").render() == "1,5"
    assert compiled.compilations == 2
