"""docs/reference/ is generated from the code and complete: every setting, error code, command and route is in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.reference import FOLDER, commands, pages

from minitoolai.api.openapi import describe
from minitoolai.settings import Settings, variables

ROOT = Path(__file__).parent.parent
PAGES = pages()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_is_current(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == PAGES[name], "run: python -m tools.reference"


def test_no_page_is_obsolete() -> None:
    # This page is made by running the clients: python -m tools.compatibility.
    assert {path.name for path in FOLDER.iterdir()} == set(PAGES) | {"compatibility.md"}


def test_every_setting_is_documented_with_its_meaning() -> None:
    for variable in variables():
        assert f"`{variable}`" in PAGES["settings.md"]
    assert all(len(field.metadata["about"]) > 10 for field in Settings.__dataclass_fields__.values() if field.metadata)


def test_every_error_code_in_the_code_is_documented() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    codes = set(re.findall(r'\bcode(?:: str)? ?= ?"(\w+)"', source)) | set(re.findall(r'"code" ?: ?"(\w+)"', source))
    assert len(codes) > 14
    assert {code for code in codes if f"`{code}`" not in PAGES["errors.md"]} == set()


def test_every_command_and_option_is_documented() -> None:
    assert len(commands()) >= 11
    for name, parser in commands().items():
        assert f"## `minitoolai {name}`" in PAGES["cli.md"]
        for action in parser._actions:
            assert action.help, (name, action.dest)


def test_every_route_is_documented() -> None:
    for path, item in describe()["paths"].items():
        for method in item:
            assert f"`{method.upper()} {path}`" in PAGES["http.md"]


def test_links_between_pages_of_the_documentation_are_not_broken() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
